package vaultplugin

import (
	"errors"
	"net/http"

	"github.com/tocsin-events/tocsin/internal/child"
)

// Errors that a caller can act on, to be found with errors.Is.
var (
	// ErrExited says that the process of the plugin ended, before or during the call.
	// What the call did is unknown; a caller may launch the plugin again and repeat it.
	ErrExited = errors.New("the plugin has exited")
	// ErrTimeout says that the plugin did not answer in time, or cannot be reached although
	// its process lives. What the call did, or will still do, is unknown.
	ErrTimeout = errors.New("the plugin did not answer in time")
	// ErrClosed is the answer of a Backend after Close.
	ErrClosed = errors.New("the backend is closed")
	// ErrBusy says that a plugin which is not multiplexed has its one backend already.
	ErrBusy = errors.New("the plugin serves one mount per process and has one")
	// ErrChecksum says that the executable is not the one that was registered.
	ErrChecksum = child.ErrChecksum
	// ErrProtocol says that the plugin answered with something that is not valid.
	ErrProtocol = errors.New("the plugin broke the protocol")
)

// Kind is what an error of a plugin means, with the numbers of the protocol.
type Kind uint32

// The kinds of errors.
const (
	KindUnknown              Kind = 0
	KindUser                 Kind = 1 // the caller did something wrong
	KindInternal             Kind = 2
	KindCoded                Kind = 3 // has an HTTP status
	KindBadRequest           Kind = 4
	KindUnsupportedOperation Kind = 5
	KindUnsupportedPath      Kind = 6
	KindInvalidRequest       Kind = 7
	KindPermissionDenied     Kind = 8
	KindMultiAuthzPending    Kind = 9
	KindUnrecoverable        Kind = 10
)

// RemoteError is an error that the backend of a plugin returned.
type RemoteError struct {
	Kind    Kind
	Code    int // HTTP status, only of KindCoded
	Message string
}

func (e *RemoteError) Error() string { return e.Message }

// HTTPStatus returns the status with which Vault answers such an error.
func (e *RemoteError) HTTPStatus() int {
	switch e.Kind {
	case KindUser, KindBadRequest, KindInvalidRequest:
		return http.StatusBadRequest
	case KindUnsupportedPath:
		return http.StatusNotFound
	case KindUnsupportedOperation:
		return http.StatusMethodNotAllowed
	case KindPermissionDenied:
		return http.StatusForbidden
	case KindCoded:
		if e.Code >= 400 && e.Code <= 599 {
			return e.Code
		}
	}
	return http.StatusInternalServerError
}
