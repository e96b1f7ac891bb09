package main

// extraSystemCalls exist on this architecture only.
var extraSystemCalls []uint32
