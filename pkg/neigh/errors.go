package neigh

import "errors"

// What a caller of the kernel room can act on. Every error from there that is
// one of these wraps it.
var (
	// ErrGone: the entry, its interface, or whatever else was asked for, does not
	// exist, or vanished meanwhile. Not a failure.
	ErrGone = errors.New("not there")
	// ErrNoAddress: the entry has no link-layer address (any more).
	ErrNoAddress = errors.New("entry has no link-layer address")
	// ErrPermission: the namespace does not grant CAP_NET_ADMIN.
	ErrPermission = errors.New("not permitted")
	// ErrOverrun: the kernel dropped messages for this socket (ENOBUFS). What
	// was done is unknown until the table is dumped again.
	ErrOverrun = errors.New("netlink receive buffer overrun")
	// ErrInterrupted: the table changed under the dump (NLM_F_DUMP_INTR).
	ErrInterrupted = errors.New("dump was interrupted")
	// ErrTimeout: the kernel did not answer in time.
	ErrTimeout = errors.New("no answer from the kernel")
	// ErrMalformed: a message does not parse.
	ErrMalformed = errors.New("malformed netlink message")
	// ErrNoMemory: the kernel had no memory for a request or an answer.
	ErrNoMemory = errors.New("the kernel is out of memory")
	// ErrUnsupported: the kernel was built without what was asked of it, or is too old
	// for it.
	ErrUnsupported = errors.New("not supported by this kernel")
)

// Failure is an entry that could not be changed.
type Failure struct {
	Key Key
	Err error
}

// FailureReasons lists what FailureReason can return.
var FailureReasons = [...]string{"permission", "overrun", "interrupted", "timeout", "malformed", "memory", "other"}

// FailureReason names the kind of err, for metric labels.
func FailureReason(err error) string {
	for i, target := range [...]error{ErrPermission, ErrOverrun, ErrInterrupted, ErrTimeout, ErrMalformed, ErrNoMemory} {
		if errors.Is(err, target) {
			return FailureReasons[i]
		}
	}
	return "other"
}
