// A client of HTTP/3: sends requests one after the other on one connection, and prints a line for each.
//
// A line is the status and Levee's reason, if there is one; or `error` and what went wrong.
package main

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"flag"
	"fmt"
	"io"
	"net/http"
	"os"
	"time"

	"github.com/quic-go/quic-go/http3"
)

func main() {
	certificate := flag.String("certificate", "", "PEM file of the certificate to trust")
	count := flag.Int("count", 1, "how many requests")
	deadline := flag.Duration("deadline", 30*time.Second, "after this time a request is cancelled")
	flag.Parse()
	if err := run(*certificate, flag.Arg(0), *count, *deadline); err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
}

func run(certificate, url string, count int, deadline time.Duration) error {
	pem, err := os.ReadFile(certificate)
	if err != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		return fmt.Errorf("%s holds no certificate", certificate)
	}
	transport := &http3.Transport{TLSClientConfig: &tls.Config{RootCAs: roots, ServerName: "localhost"}}
	defer transport.Close()
	client := &http.Client{Transport: transport}
	for range count {
		fmt.Println(ask(client, url, deadline))
	}
	return nil
}

func ask(client *http.Client, url string, deadline time.Duration) string {
	ctx, cancel := context.WithTimeout(context.Background(), deadline)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return fmt.Sprint("error ", err)
	}
	answer, err := client.Do(request)
	if err != nil {
		return fmt.Sprint("error ", err)
	}
	defer answer.Body.Close()
	if _, err := io.Copy(io.Discard, answer.Body); err != nil {
		return fmt.Sprint("error ", err)
	}
	return fmt.Sprintf("%d %s", answer.StatusCode, answer.Header.Get("x-levee-reason"))
}
