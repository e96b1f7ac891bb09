package kernel

import (
	"errors"
	"os"
	"slices"
	"testing"
	"testing/fstest"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/lab"
	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/neigh"
)

const (
	statNames = "entries  allocs   destroys hash_grows lookups  hits     res_failed rcv_probes_mcast rcv_probes_ucast periodic_gc_runs forced_gc_runs unresolved_discards table_fulls\n"
	statCPU0  = "000000ff 000c3679 0007fbc8 0000000d   01367767 006744c4 00000092   00000000         00000000         00000171         0000fffb       00043bff            0000000a\n"
	statCPU1  = "000000ff 000845a9 000c592b 00000001   0186dc70 00848aae 00000092   00000000         00000000         00000000         0001c70e       0003beb4            00000010\n"
)

func TestTableSizes(t *testing.T) {
	thresholds := func(family string, values ...string) map[string]string {
		files := make(map[string]string)
		for i, v := range values {
			files["sys/net/"+family+"/neigh/default/gc_thresh"+string(rune('1'+i))] = v + "\n"
		}
		return files
	}
	v4 := thresholds("ipv4", "128", "512", "1024")
	v6 := thresholds("ipv6", "1", "2", "3")
	stat4, stat6 := "thread-self/net/stat/arp_cache", "thread-self/net/stat/ndisc_cache"
	want4 := neigh.TableSize{Family: "ipv4", Entries: 255, Thresholds: [3]int{128, 512, 1024}, Full: 26}
	want6 := neigh.TableSize{Family: "ipv6", Entries: 255, Thresholds: [3]int{1, 2, 3}, Full: 10}
	for _, tt := range []struct {
		name  string
		files []map[string]string
		want  []neigh.TableSize
		err   error
	}{
		{"both", []map[string]string{v4, v6, {stat4: statNames + statCPU0 + statCPU1, stat6: statNames + statCPU0}}, []neigh.TableSize{want4, want6}, nil},
		{"no IPv6", []map[string]string{v4, {stat4: statNames + statCPU0 + statCPU1}}, []neigh.TableSize{want4}, nil},
		{"another namespace", nil, nil, nil},
		{"statistics alone", []map[string]string{{stat4: statNames + statCPU0}}, nil, nil},
		{"thresholds alone", []map[string]string{v4}, nil, nil},
		{"before Linux 4.3", []map[string]string{v4, {stat4: "entries  allocs\n000000ff 00000001\n"}}, nil, nil},
		{"a column short", []map[string]string{v4, {stat4: statNames + "000000ff\n"}}, nil, neigh.ErrMalformed},
		{"no number", []map[string]string{thresholds("ipv4", "128", "many", "1"), {stat4: statNames + statCPU0}}, nil, neigh.ErrMalformed},
	} {
		t.Run(tt.name, func(t *testing.T) {
			proc := fstest.MapFS{}
			for _, files := range tt.files {
				for name, text := range files {
					proc[name] = &fstest.MapFile{Data: []byte(text)}
				}
			}
			got, err := TableSizes(proc)
			if !errors.Is(err, tt.err) || !slices.Equal(got, tt.want) {
				t.Errorf("%+v, %v; want %+v, %v", got, err, tt.want, tt.err)
			}
		})
	}
}

// In a network namespace of its own a process sees nothing of the table's size.
func TestTableSizesOfAnotherNamespace(t *testing.T) {
	host := lab.Start(t).Host("host")
	if err := host.Do(func() error {
		sizes, err := TableSizes(os.DirFS("/proc"))
		if len(sizes) > 0 {
			t.Errorf("sizes %+v", sizes)
		}
		return err
	}); err != nil {
		t.Error(err)
	}
}
