package report

import (
	"net/netip"
	"time"
)

// VIP is what is known of a watched VIP. It is never changed once published.
type VIP struct {
	Addr   netip.Addr
	Source string // how it is known: auto, address or name
	Device string // that its entry is on; "" where it is not on link
	LLAddr string // of the holder that the entry names; "" for none
	// Holders counts the hosts that answered when everybody was last asked.
	Holders  int
	OnLink   bool
	HeldHere bool
	Pinned   bool // its entry is somebody else's, who alone can correct it
	// Verified is when the VIP was last known to work: its holder answered, and no
	// connection to it was suspect.
	Verified time.Time
}
