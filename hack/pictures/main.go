// Command pictures draws the pictures of docs/ from what was measured: how long a
// node is without a VIP that moved (docs/pictures/failover.csv, which bench-vip
// writes), and the ages of a table (docs/pictures/ages.csv, which it measures itself
// with -measure, in network namespaces).
package main

//go:generate go run . -dir ../../docs/pictures

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/hack/record"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
)

func main() {
	dir := flag.String("dir", "docs/pictures", "directory of the data and the pictures")
	agent := flag.String("agent", "bin/arp-cache-cleaner", "path of the agent, for -measure")
	measure := flag.Duration("measure", 0, "measure ages for so long, 10m for instance, instead of drawing")
	flag.Parse()
	if err := run(*dir, *agent, *measure); err != nil {
		fail(err)
	}
}

func fail(err error) {
	fmt.Fprintln(os.Stderr, "pictures:", err)
	os.Exit(1)
}

func run(dir, agent string, measure time.Duration) error {
	if measure > 0 {
		if err := lab.Enter(); err != nil {
			return err
		}
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
		defer stop()
		return measureAges(ctx, agent, filepath.Join(dir, "ages.csv"), measure)
	}
	return errors.Join(
		redraw(dir, "failover", drawFailover),
		redraw(dir, "ages", drawAges),
	)
}

// redraw makes NAME.svg from NAME.csv.
func redraw(dir, name string, draw func(*record.Record) (string, error)) error {
	data := filepath.Join(dir, name+".csv")
	r, err := record.Read(data)
	if err != nil {
		return err
	}
	svg, err := draw(r)
	if err != nil {
		return fmt.Errorf("%s: %w", data, err)
	}
	return os.WriteFile(filepath.Join(dir, name+".svg"), []byte(svg), 0o644)
}
