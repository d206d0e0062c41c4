package file

const childEnv = "TOCSIN_TEST_FILE_SINK"

func child(string) {}
