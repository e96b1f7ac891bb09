// Package machine is what the agent needs to know of the machine that is no
// netlink.
package machine
