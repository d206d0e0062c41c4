package inbox

func killChild() bool { return false }
