package kernel

import (
	"testing"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

func TestMain(m *testing.M) { lab.Main(m) }
