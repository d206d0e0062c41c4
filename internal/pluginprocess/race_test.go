//go:build race && unix

package pluginprocess_test

func init() { raceDetector = true }
