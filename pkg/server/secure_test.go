package server

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// authority signs certificates for 127.0.0.1.
type authority struct {
	t    *testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
	pem  []byte
}

func newAuthority(t *testing.T, name string) *authority {
	a := &authority{t: t}
	a.cert, a.key, a.pem = a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	})
	return a
}

// sign signs a certificate by the authority, or by itself where there is none yet.
func (a *authority) sign(template *x509.Certificate) (*x509.Certificate, *ecdsa.PrivateKey, []byte) {
	a.t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		a.t.Fatal(err)
	}
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotAfter = time.Now().Add(time.Hour)
	parent, signer := a.cert, a.key
	if parent == nil {
		parent, signer = template, key
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, &key.PublicKey, signer)
	if err != nil {
		a.t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return cert, key, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
}

// issue returns a certificate and its key in PEM.
func (a *authority) issue(usage x509.ExtKeyUsage) (certPEM, keyPEM []byte) {
	a.t.Helper()
	_, key, certPEM := a.sign(&x509.Certificate{ExtKeyUsage: []x509.ExtKeyUsage{usage}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}})
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		a.t.Fatal(err)
	}
	return certPEM, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der})
}

func (a *authority) client(usage x509.ExtKeyUsage) *tls.Certificate {
	a.t.Helper()
	c, err := tls.X509KeyPair(a.issue(usage))
	if err != nil {
		a.t.Fatal(err)
	}
	return &c
}

// serveWith runs a server with a web configuration and returns its address.
func serveWith(t *testing.T, files map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	hello := http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "hello") })
	s := open(t, New("--flag", []string{"127.0.0.1:0", "127.0.0.1:0"}, filepath.Join(dir, "web.yaml"), hello, slog.New(slog.DiscardHandler)))
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return s.Addrs()[1].String()
}

func TestPasswords(t *testing.T) {
	const hash = "$2a$04$KAjIVZ7HFEgSxkOHPG8xEeIdzrgpEUO3C90kkZsDA2KVLr8.sVEiK" // bcrypt of "correct"
	addr := serveWith(t, map[string]string{"web.yaml": "basic_auth_users:\n  prometheus: " + hash + "\n"})
	for _, tt := range []struct {
		name, user, password string
		status               int
	}{
		{"right password", "prometheus", "correct", http.StatusOK},
		{"wrong password", "prometheus", "wrong", http.StatusUnauthorized},
		{"unknown user", "admin", "correct", http.StatusUnauthorized},
		{"none", "", "", http.StatusUnauthorized},
	} {
		t.Run(tt.name, func(t *testing.T) {
			req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+addr+"/metrics", nil)
			if err != nil {
				t.Fatal(err)
			}
			if tt.user != "" {
				req.SetBasicAuth(tt.user, tt.password)
			}
			resp, err := http.DefaultClient.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			defer resp.Body.Close()
			if resp.StatusCode != tt.status {
				t.Errorf("status %d, want %d", resp.StatusCode, tt.status)
			}
		})
	}
}

func TestClientCertificates(t *testing.T) {
	ours, theirs := newAuthority(t, "ours"), newAuthority(t, "theirs")
	cert, key := ours.issue(x509.ExtKeyUsageServerAuth)
	addr := serveWith(t, map[string]string{
		"tls.crt": string(cert), "tls.key": string(key), "ca.crt": string(ours.pem),
		"web.yaml": "tls_server_config:\n  cert_file: tls.crt\n  key_file: tls.key\n  client_ca_file: ca.crt\n  client_auth_type: RequireAndVerifyClientCert\n",
	})
	for _, tt := range []struct {
		name    string
		client  *tls.Certificate
		refused string // what the error says, "" for none
	}{
		{"of our CA", ours.client(x509.ExtKeyUsageClientAuth), ""},
		{"of another CA", theirs.client(x509.ExtKeyUsageClientAuth), "unknown certificate authority"},
		{"none", nil, "certificate required"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			pool := x509.NewCertPool()
			pool.AddCert(ours.cert)
			config := &tls.Config{RootCAs: pool}
			if tt.client != nil {
				// Whatever authorities the server asks for.
				config.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return tt.client, nil }
			}
			client := &http.Client{Transport: &http.Transport{TLSClientConfig: config, DisableKeepAlives: true}}
			resp, err := client.Get("https://" + addr + "/metrics")
			if err == nil {
				_ = resp.Body.Close()
			}
			switch {
			case tt.refused == "" && err != nil:
				t.Errorf("refused: %v", err)
			case tt.refused != "" && (err == nil || !strings.Contains(err.Error(), tt.refused)):
				t.Errorf("error %v, want one that says %q", err, tt.refused)
			}
		})
	}
	t.Run("plain HTTP", func(t *testing.T) {
		resp, err := http.Get("http://" + addr + "/metrics")
		if err != nil {
			return // refused as well
		}
		defer resp.Body.Close()
		if body, _ := io.ReadAll(resp.Body); resp.StatusCode != http.StatusBadRequest || strings.Contains(string(body), "hello") {
			t.Errorf("status %d, body %q, want 400", resp.StatusCode, body)
		}
	})
}

func TestBadWebConfiguration(t *testing.T) {
	for name, content := range map[string]string{
		"unknown key":      "tls: {}\n",
		"missing file":     "tls_server_config: {cert_file: no.crt, key_file: no.key}\n",
		"password in text": "basic_auth_users: {prometheus: correct}\n",
		"not there":        "",
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "web.yaml")
			if content != "" {
				if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if err := CheckConfig(path); err == nil || !strings.HasPrefix(err.Error(), "web configuration "+path+": ") {
				t.Errorf("error %v does not name %s", err, path)
			}
		})
	}
}
