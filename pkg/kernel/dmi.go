package kernel

import (
	"bytes"
	"os"
)

// VMware is the DMI system vendor of every vSphere virtual machine.
const VMware = "VMware, Inc."

// sysVendor is world-readable, and visible inside containers.
const sysVendor = "/sys/class/dmi/id/sys_vendor"

// Vendor returns the machine's DMI system vendor, "" where there is none: some
// machines have no DMI at all.
func Vendor() string {
	b, err := os.ReadFile(sysVendor)
	if err != nil {
		return ""
	}
	return string(bytes.TrimSpace(b))
}
