package status

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"image"
	"image/color"
	"image/draw"
	"image/png"
	"maps"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/arp-cache-cleaner/arp-cache-cleaner/pkg/server"
)

var screenshots = flag.String("screenshots", "", "write the picture of the documentation to this directory")

// browser is a real Chromium, which can reach this machine alone.
type browser struct {
	t    *testing.T
	path string

	mu    sync.Mutex
	asked []string // the paths that were asked for
	url   string
}

// newBrowser returns a browser, and serves a page to it as the agent does, at /. At
// /unguarded it is served without the headers that keep other pages from looking
// into it, and at /measure is one that does.
func newBrowser(t *testing.T, p *Page) *browser {
	t.Helper()
	b := &browser{t: t}
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome"} {
		if path, err := exec.LookPath(name); err == nil {
			b.path = path
			break
		}
	}
	if b.path == "" {
		if os.Getenv("ARP_LAB_REQUIRE") != "" {
			t.Fatal("there is no Chromium: Debian has it as the package chromium")
		}
		t.Skip("there is no Chromium to show the page")
	}
	mux := http.NewServeMux()
	mux.Handle("/", server.Web(http.NotFoundHandler(), func() server.Page { return p }))
	mux.HandleFunc("/unguarded", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "text/html; charset=utf-8")
		if err := p.HTML(w); err != nil {
			t.Error(err)
		}
	})
	mux.HandleFunc("/measure", func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintf(w, `<!DOCTYPE html><iframe src="unguarded" width="%s" height="800"></iframe><script>
document.querySelector("iframe").onload = e => {
  const d = e.target.contentDocument
  document.body.append("width " + d.documentElement.scrollWidth + " of " + d.documentElement.clientWidth + " mode " + d.compatMode + " ")
}</script>`, r.URL.Query().Get("width"))
	})
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		b.mu.Lock()
		b.asked = append(b.asked, r.Method+" "+r.URL.Path)
		b.mu.Unlock()
		mux.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	b.url = s.URL
	return b
}

// open has the browser open a path, with more flags, and returns what it prints.
func (b *browser) open(path string, flags ...string) string {
	b.t.Helper()
	ctx, cancel := context.WithTimeout(b.t.Context(), time.Minute)
	defer cancel()
	dir := b.t.TempDir()
	cmd := exec.CommandContext(ctx, b.path, slices.Concat([]string{
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
		"--disable-component-update", "--disable-sync", "--disable-dev-shm-usage", "--hide-scrollbars",
		"--user-data-dir=" + dir, "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE 127.0.0.1",
	}, flags, []string{b.url + path})...)
	cmd.Env = append(os.Environ(), "HOME="+dir)
	cmd.WaitDelay = time.Second
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Run(); err != nil {
		b.t.Fatalf("chromium: %v\n%s", err, errs.String())
	}
	return out.String()
}

// picture returns what the browser shows in a window of the given size.
func (b *browser) picture(path string, width, height int, flags ...string) image.Image {
	b.t.Helper()
	file := filepath.Join(b.t.TempDir(), "page.png")
	b.open(path, append(flags, "--screenshot="+file, fmt.Sprintf("--window-size=%d,%d", width, height))...)
	f, err := os.Open(file)
	if err != nil {
		b.t.Fatal(err)
	}
	defer f.Close()
	img, err := png.Decode(f)
	if err != nil {
		b.t.Fatal(err)
	}
	if size := img.Bounds().Size(); size != image.Pt(width, height) {
		b.t.Fatalf("the picture is %v, not %d by %d", size, width, height)
	}
	return img
}

// has reports whether a colour is in a picture.
func has(img image.Image, c color.RGBA) bool {
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			if color.RGBAModel.Convert(img.At(x, y)) == c {
				return true
			}
		}
	}
	return false
}

// A browser shows the page: all that is in it, parsed as it was meant, and it asks
// nobody for anything else.
func TestInABrowser(t *testing.T) {
	t.Parallel()
	p := sample()
	b := newBrowser(t, p)
	dom := b.open("/", "--dump-dom")
	var html bytes.Buffer
	if err := p.HTML(&html); err != nil {
		t.Fatal(err)
	}
	if got, want := outline(dom), outline(html.String()); got != want {
		t.Errorf("the browser has made of it\n%s\nnot\n%s", got, want)
	}
	for _, want := range []string{"arp-cache-cleaner on worker-3", "VIP 10.0.0.101: failing (server_error).", "00:50:56:9a:01:02 on eth0", "repaired in 2.1s (stale)"} {
		if !strings.Contains(dom, want) {
			t.Errorf("it does not show %q:\n%s", want, dom)
		}
	}
	// Browsers ask for the icon of a site by themselves.
	asked := slices.DeleteFunc(b.asked, func(s string) bool { return s == "GET /favicon.ico" })
	if !slices.Equal(asked, []string{"GET /"}) {
		t.Errorf("it asked for %q, want the page, once", asked)
	}
}

// outline is the elements of HTML in their order, but for those that a browser adds.
func outline(html string) string {
	var tags []string
	for rest := html; ; {
		_, tag, ok := strings.Cut(rest, "<")
		if !ok {
			return strings.Join(tags, " ")
		}
		tag, rest, _ = strings.Cut(tag, ">")
		name := strings.ToLower(strings.TrimRight(strings.Fields(tag + " ")[0], "/"))
		if !strings.HasSuffix(name, "tbody") && name != "" {
			tags = append(tags, name)
		}
	}
}

// Its style is applied, by day and by night: the policy against foreign content
// allows it.
func TestStyle(t *testing.T) {
	t.Parallel()
	b := newBrowser(t, sample())
	for _, tt := range []struct {
		name            string
		flags           []string
		background, bad color.RGBA
	}{
		{"light", []string{"--blink-settings=preferredColorScheme=1"}, color.RGBA{0xff, 0xff, 0xff, 0xff}, color.RGBA{0xb4, 0x23, 0x18, 0xff}},
		{"dark", []string{"--blink-settings=preferredColorScheme=0"}, color.RGBA{0x0d, 0x11, 0x17, 0xff}, color.RGBA{0xff, 0x8e, 0x86, 0xff}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			img := b.picture("/", 800, 600, tt.flags...)
			if got := color.RGBAModel.Convert(img.At(799, 599)); got != tt.background {
				t.Errorf("the background is %v, want %v", got, tt.background)
			}
			if !has(img, tt.bad) {
				t.Error("trouble is not marked by its colour")
			}
		})
	}
}

// On a phone nothing but wide tables, each by itself, has to be scrolled sideways.
func TestOnAPhone(t *testing.T) {
	t.Parallel()
	b := newBrowser(t, sample())
	if dom := b.open("/measure?width=360", "--dump-dom"); !strings.Contains(dom, "width 360 of 360 mode CSS1Compat") {
		t.Errorf("the page does not fit 360 pixels, or has quirks:\n%s", dom)
	}
}

// Whatever things are called, a browser runs none of it.
func TestNamesInABrowser(t *testing.T) {
	t.Parallel()
	const evil = `"><script>document.body.append("ha"+"cked")</script><img src=x onerror='document.body.append("ha"+"cked")'>`
	p := sample()
	p.Node, p.Health = evil, []string{`x" onmouseover="y`}
	for _, v := range p.VIPs {
		v.Name, v.Given, v.Device = evil, evil, evil
	}
	p.Events = []Event{{Subject: evil, What: evil}}
	b := newBrowser(t, p)
	// Without the policy, so that it is the escaping that is tried.
	dom := b.open("/unguarded", "--dump-dom")
	if strings.Contains(dom, "hacked") || strings.Contains(dom, "<img") || strings.Contains(dom, "<script") || !strings.Contains(dom, "&lt;script&gt;") {
		t.Errorf("the browser has made of it\n%s", dom)
	}
	// And that the test would notice.
	if dom := b.open("/measure?width=360", "--dump-dom"); !strings.Contains(dom, "width ") {
		t.Error("this browser runs no script at all")
	}
}

// TestScreenshots writes the picture of the documentation: `make pictures`.
func TestScreenshots(t *testing.T) {
	if *screenshots == "" {
		t.Skip("it is made by `make pictures`")
	}
	b := newBrowser(t, sample())
	img := b.picture("/", 800, 1580, "--blink-settings=preferredColorScheme=1")
	f, err := os.Create(filepath.Join(*screenshots, "status.png"))
	if err != nil {
		t.Fatal(err)
	}
	enc := png.Encoder{CompressionLevel: png.BestCompression}
	if err := errors.Join(enc.Encode(f, fewColours(img)), f.Close()); err != nil {
		t.Fatal(err)
	}
}

// fewColours is a picture with the 256 colours that are most frequent in it: a
// fraction of the size.
func fewColours(img image.Image) image.Image {
	count := map[color.RGBA]int{}
	for y := range img.Bounds().Dy() {
		for x := range img.Bounds().Dx() {
			count[color.RGBAModel.Convert(img.At(x, y)).(color.RGBA)]++
		}
	}
	colours := slices.SortedFunc(maps.Keys(count), func(a, b color.RGBA) int {
		return cmp.Or(cmp.Compare(count[b], count[a]), bytes.Compare([]byte{a.R, a.G, a.B}, []byte{b.R, b.G, b.B}))
	})
	var palette color.Palette
	for _, c := range colours[:min(len(colours), 256)] {
		palette = append(palette, c)
	}
	few := image.NewPaletted(img.Bounds(), palette)
	draw.Draw(few, few.Bounds(), img, image.Point{}, draw.Src)
	return few
}
