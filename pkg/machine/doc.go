// Package machine is what the agent needs to know about the machine beyond netlink.
package machine
