package machine

import (
	"io/fs"
	"os"
	"strings"
	"testing"
	"testing/fstest"
)

// sysfs makes a root of files from lines "path: content".
func sysfs(lines ...string) fs.FS {
	m := fstest.MapFS{}
	for _, l := range lines {
		name, content, _ := strings.Cut(l, ": ")
		m[name] = &fstest.MapFile{Data: []byte(content + "\n")}
	}
	return m
}

func TestVMware(t *testing.T) {
	for _, test := range []struct {
		name     string
		sys      fs.FS
		found    bool
		evidence string
	}{
		{"BIOS", sysfs("class/dmi/id/sys_vendor: VMware, Inc.", "class/dmi/id/product_name: VMware Virtual Platform", "class/dmi/id/bios_vendor: Phoenix Technologies LTD"),
			true, `sys_vendor "VMware, Inc."`},
		{"EFI", sysfs("class/dmi/id/sys_vendor: VMware, Inc.", "class/dmi/id/product_name: VMware7,1", "class/dmi/id/bios_vendor: VMware, Inc."),
			true, `sys_vendor "VMware, Inc."`},
		{"product alone", sysfs("class/dmi/id/sys_vendor: Example", "class/dmi/id/product_name: VMware20,1"), true, `product_name "VMware20,1"`},
		{"EFI that reflects the host", sysfs("class/dmi/id/sys_vendor: Dell Inc.", "class/dmi/id/product_name: PowerEdge R650", "class/dmi/id/bios_vendor: VMware, Inc."),
			true, `bios_vendor "VMware, Inc."`},
		{"BIOS that reflects the host", sysfs("class/dmi/id/sys_vendor: HPE", "class/dmi/id/product_name: ProLiant DL380 Gen10", "class/dmi/id/bios_vendor: Phoenix Technologies LTD",
			"bus/pci/devices/0000:00:00.0/vendor: 0x8086", "bus/pci/devices/0000:00:00.0/device: 0x7190",
			"bus/pci/devices/0000:00:07.7/vendor: 0x15ad", "bus/pci/devices/0000:00:07.7/device: 0x0740"),
			true, "PCI device 0000:00:07.7 0x15ad:0x0740"},
		{"no DMI, VMware's bridge", sysfs("bus/pci/devices/0000:00:11.0/vendor: 0x15ad", "bus/pci/devices/0000:00:11.0/device: 0x0790"),
			true, "PCI device 0000:00:11.0 0x15ad:0x0790"},
		{"bare metal", sysfs("class/dmi/id/sys_vendor: Dell Inc.", "class/dmi/id/product_name: PowerEdge R650", "class/dmi/id/bios_vendor: Dell Inc.",
			"bus/pci/devices/0000:00:00.0/vendor: 0x8086", "bus/pci/devices/0000:00:00.0/device: 0x09a2"),
			false, `sys_vendor "Dell Inc."`},
		{"KVM with an emulated card of each kind", sysfs("class/dmi/id/sys_vendor: QEMU", "class/dmi/id/product_name: Standard PC (i440FX + PIIX, 1996)", "class/dmi/id/bios_vendor: SeaBIOS",
			"bus/pci/devices/0000:00:02.0/vendor: 0x15ad", "bus/pci/devices/0000:00:02.0/device: 0x0405",
			"bus/pci/devices/0000:00:03.0/vendor: 0x15ad", "bus/pci/devices/0000:00:03.0/device: 0x07b0",
			"bus/pci/devices/0000:00:04.0/vendor: 0x15ad", "bus/pci/devices/0000:00:04.0/device: 0x07c0"),
			false, `sys_vendor "QEMU"`},
		{"VirtualBox", sysfs("class/dmi/id/sys_vendor: innotek GmbH", "class/dmi/id/product_name: VirtualBox", "class/dmi/id/bios_vendor: innotek GmbH",
			"bus/pci/devices/0000:00:02.0/vendor: 0x15ad", "bus/pci/devices/0000:00:02.0/device: 0x0405"),
			false, `sys_vendor "innotek GmbH"`},
		{"named like it, further on", sysfs("class/dmi/id/sys_vendor: Not VMware, Inc."), false, `sys_vendor "Not VMware, Inc."`},
		{"a vendor that is empty", sysfs("class/dmi/id/sys_vendor: ", "class/dmi/id/product_name: Board"), false, `product_name "Board"`},
		{"nothing", sysfs(), false, "no DMI"},
	} {
		t.Run(test.name, func(t *testing.T) {
			found, evidence := VMware(test.sys)
			if found != test.found || evidence != test.evidence {
				t.Errorf("VMware = %v, %s; want %v, %s", found, evidence, test.found, test.evidence)
			}
		})
	}
}

// Entries of /sys/bus/pci/devices and /sys/class/dmi are symbolic links.
func TestVMwareFollowsLinks(t *testing.T) {
	root := t.TempDir()
	device := "/devices/pci0000:00/0000:00:07.7"
	for _, dir := range []string{device, "/bus/pci/devices"} {
		if err := os.MkdirAll(root+dir, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for name, content := range map[string]string{"/vendor": "0x15ad\n", "/device": "0x0740\n"} {
		if err := os.WriteFile(root+device+name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("../../.."+device, root+"/bus/pci/devices/0000:00:07.7"); err != nil {
		t.Fatal(err)
	}
	if found, evidence := VMware(os.DirFS(root)); !found || evidence != "PCI device 0000:00:07.7 0x15ad:0x0740" {
		t.Errorf("VMware = %v, %s", found, evidence)
	}
}
