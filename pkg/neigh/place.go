package neigh

import "net/netip"

// Place is where the kernel would send packets for an address.
type Place struct {
	// Link is the device they leave by, or, for a local address, the device
	// that carries it. Its Uplink and BaseReachable are not filled in.
	Link    Link
	Gateway netip.Addr // not valid where the address is on link, or local

	// Here is set where the address is this host's own, on a device that takes
	// part in address resolution or on loopback.
	Here bool
	// Local is set where the kernel delivers packets to the address locally,
	// Here or not: kube-proxy holds the addresses of services on kube-ipvs0, a
	// NOARP device, and a route of type local needs no address at all.
	Local bool
	// Own is set where it is what a host is known by, and not what moves from one
	// to another: the first address of a subnet on its device. Those that move
	// have no subnet (kube-vip), come later than another one in it (keepalived),
	// or are on a device that is stacked on another with an address in it
	// (keepalived's use_vmac, a macvlan device).
	Own bool
}

// Own is what a host is known by on its links.
type Own struct {
	Addrs []OwnAddr
	// LLAddrs are the link-layer addresses of all devices of the host, in this network
	// namespace: one host may answer with several of them.
	LLAddrs []LLAddr
}

// OwnAddr is an address that a host is known by, as Place.Own says it.
type OwnAddr struct {
	Addr netip.Addr
	// Link is the device that carries it. Its Uplink and BaseReachable are not filled
	// in.
	Link Link
	// Router says that the device forwards IPv6, as its Neighbor Advertisements do.
	// It is false for an IPv4 address.
	Router bool
	// Tentative says that the kernel's duplicate address detection (RFC 4862 section
	// 5.4) is not done with the address. It is not used before, nor ever where it is
	// a Duplicate: then that detection has found another holder.
	Tentative, Duplicate bool
}
