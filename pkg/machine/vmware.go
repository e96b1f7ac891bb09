package machine

import (
	"bytes"
	"cmp"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strings"
)

// dmi is where the kernel shows the strings of the firmware (SMBIOS types 0 and
// 1), by drivers/firmware/dmi-id.c. Those named in signs are world-readable, and
// visible inside containers.
const dmi = "class/dmi/id/"

// signs are the strings that name VMware in one or another virtual machine. With
// SMBIOS.reflectHost the first two are those of the hardware below it, as some
// licences of guest systems need; the third is VMware's only where it boots by EFI.
var signs = []string{"sys_vendor", "product_name", "bios_vendor"}

// vmwareVendor is VMware's PCI vendor ID, as sysfs writes it.
const vmwareVendor = "0x15ad"

// emulated are devices of VMware's that other hypervisors offer to their guests as
// well: SVGA II (the default for Linux in VirtualBox, and QEMU's -vga vmware),
// vmxnet3 and PVSCSI (QEMU). They prove nothing. The bridges and VMCI of a VMware
// virtual machine are nobody else's.
var emulated = []string{"0x0405", "0x07b0", "0x07c0"}

// VMware says whether this is a VMware virtual machine, and what showed it, or what
// the machine is instead: `product_name "VMware7,1"` for example. sys is the root of
// sysfs. A file that cannot be read says nothing: some machines have no DMI, others
// no PCI.
func VMware(sys fs.FS) (found bool, evidence string) {
	for _, sign := range signs {
		value := read(sys, dmi+sign)
		said := fmt.Sprintf("%s %q", sign, value)
		if strings.HasPrefix(value, "VMware") {
			return true, said
		}
		if evidence == "" && value != "" {
			evidence = said
		}
	}
	vendors, _ := fs.Glob(sys, "bus/pci/devices/*/vendor") // the pattern is a good one
	for _, vendor := range vendors {
		if read(sys, vendor) != vmwareVendor {
			continue
		}
		dir := path.Dir(vendor)
		if device := read(sys, path.Join(dir, "device")); !slices.Contains(emulated, device) {
			return true, fmt.Sprintf("PCI device %s %s:%s", path.Base(dir), vmwareVendor, device)
		}
	}
	return false, cmp.Or(evidence, "no DMI")
}

// read returns what a file of sysfs holds, "" if there is no such file.
func read(sys fs.FS, name string) string {
	b, err := fs.ReadFile(sys, name)
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(b))
}
