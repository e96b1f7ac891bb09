package report

import (
	"net/netip"
	"time"
)

// VIP is what is known of a watched VIP. It is never changed once published.
type VIP struct {
	Name   string // the address, and behind % the device that connections to it are bound to
	Addr   netip.Addr
	Given  string // the DNS name that it was given by; "" for none
	Source string // how it is known: auto, address or name
	// State and Reason say what is to be thought of it: vip.State and vip.Reason.
	State, Reason string
	Device        string    // that its entry is on; "" where it is not on link
	LLAddr        string    // of the holder that the entry names; "" for none
	Since         time.Time // when the entry began to name that holder
	// Holders counts the hosts that answered when everybody was last asked.
	Holders int
	OneHost bool // these are link-layer addresses of one host
	OnLink  bool
	// HeldHere: this node has the address. Then Checked says that the service behind
	// it was checked, and Serving what came of it.
	HeldHere         bool
	Checked, Serving bool
	Pinned           bool // its entry is PERMANENT or NOARP, so that nobody corrects it
	// Verified is when the VIP was last known to work: its holder answered, and no
	// connection to it was suspect.
	Verified time.Time
}
