//go:build race

package main

// raceEnabled says that the race detector is on: it takes many times the memory.
const raceEnabled = true
