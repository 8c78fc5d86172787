package relay

import (
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"time"

	"hearth/node/keys"
	"hearth/node/wholefile"
)

// Certificates are valid from a fixed day on and practically for ever: a board
// without a battery-backed clock starts in the past, and nobody checks them
// against a clock anyway.
var (
	certificateFrom = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)
	certificateTo   = time.Date(2099, 12, 31, 0, 0, 0, 0, time.UTC)
)

// Certificate returns the self-signed certificate kept in dir as cert.pem and
// key.pem (ECDSA P-256) and makes it when there is none. Clients do not verify
// a node's certificate, they could not tie it to anything; the list authority's
// certificate is pinned, and so must not change.
func Certificate(dir string) (tls.Certificate, error) {
	certFile, keyFile := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	cert, err := tls.LoadX509KeyPair(certFile, keyFile)
	if err == nil {
		return cert, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return tls.Certificate{}, fmt.Errorf("reading the certificate: %w", err)
	}

	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making a certificate key: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          big.NewInt(1),
		Subject:               pkix.Name{CommonName: "localhost"},
		DNSNames:              []string{"localhost"},
		NotBefore:             certificateFrom,
		NotAfter:              certificateTo,
		KeyUsage:              x509.KeyUsageDigitalSignature,
		ExtKeyUsage:           []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		BasicConstraintsValid: true,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making a certificate: %w", err)
	}
	keyDER, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making a certificate: %w", err)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return tls.Certificate{}, fmt.Errorf("keeping the certificate: %w", err)
	}
	// The certificate is written last: where it exists, the pair is whole.
	for _, f := range []struct {
		path, kind string
		der        []byte
	}{
		{keyFile, "PRIVATE KEY", keyDER},
		{certFile, "CERTIFICATE", der},
	} {
		if err := wholefile.Write(f.path, pem.EncodeToMemory(&pem.Block{Type: f.kind, Bytes: f.der})); err != nil {
			return tls.Certificate{}, fmt.Errorf("keeping the certificate: %w", err)
		}
	}
	return tls.LoadX509KeyPair(certFile, keyFile)
}

// nodeCertificate wraps a node's Ed25519 key into a certificate for the links
// between nodes. Only the key in it counts.
func nodeCertificate(node *keys.Pair) (tls.Certificate, error) {
	private := node.Ed25519Private()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: linkName},
		NotBefore:    certificateFrom,
		NotAfter:     certificateTo,
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("making the node's link certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: private}, nil
}

// peerKey returns the Ed25519 key of the other end of a link. The handshake has
// proven that the other end holds it.
func peerKey(state *tls.ConnectionState) ([32]byte, error) {
	if state == nil || len(state.PeerCertificates) == 0 {
		return [32]byte{}, errors.New("no certificate")
	}
	key, ok := state.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return [32]byte{}, errors.New("certificate without an Ed25519 key")
	}
	return [32]byte(key), nil
}
