package shield

import (
	"cmp"
	"slices"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

// QuietRounds is how many rounds in which only one host answers end a contest. An
// answer may be lost.
const QuietRounds = 3

// Contest follows whether several holders answer for one address. A host with two
// interfaces on the segment does so for ever. The zero value is none.
type Contest struct {
	holders []neigh.LLAddr // the set last reported, sorted; nil: there is no contest
	quiet   int            // rounds since, in which at most one answered
}

// News is what a round has brought.
type News uint8

// The news.
const (
	NoNews   News = iota
	Several       // several holders answer, and not the same as before
	OneAgain      // the contest is over
)

// Answered takes in who answered in one round.
func (c *Contest) Answered(holders []neigh.LLAddr) News {
	if len(holders) <= 1 {
		if c.quiet++; c.holders == nil || c.quiet < QuietRounds {
			return NoNews
		}
		c.holders = nil
		return OneAgain
	}
	c.quiet = 0
	now := slices.SortedFunc(slices.Values(holders), func(a, b neigh.LLAddr) int { return cmp.Compare(a.String(), b.String()) })
	if slices.Equal(now, c.holders) {
		return NoNews
	}
	c.holders = now
	return Several
}

// Holders returns those that answer, in order; nil where there is no contest.
func (c *Contest) Holders() []neigh.LLAddr { return c.holders }
