// A reverse proxy of Go's standard library with a circuit breaker around each service, as a Go team would build it.
// Arguments: the address to listen on and the URL of the service, or `version` to print what it is built with.
package main

import (
	"errors"
	"fmt"
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"os"
	"runtime"
	"runtime/debug"
	"sync"
	"time"

	"github.com/sony/gobreaker/v2"
)

var errFailed = errors.New("the service has failed")

// One breaker per service. A request header names the service.
type breakers struct {
	mutex sync.RWMutex
	named map[string]*gobreaker.TwoStepCircuitBreaker[any]
}

func (all *breakers) get(name string) *gobreaker.TwoStepCircuitBreaker[any] {
	all.mutex.RLock()
	found := all.named[name]
	all.mutex.RUnlock()
	if found != nil {
		return found
	}
	all.mutex.Lock()
	defer all.mutex.Unlock()
	if found = all.named[name]; found == nil && len(all.named) < 1000 {
		found = gobreaker.NewTwoStepCircuitBreaker[any](gobreaker.Settings{
			Name:        name,
			MaxRequests: 3,
			Timeout:     30 * time.Second,
			ReadyToTrip: func(counts gobreaker.Counts) bool { return counts.ConsecutiveFailures >= 5 },
		})
		all.named[name] = found
	}
	return found
}

type status struct {
	http.ResponseWriter
	code int
}

func (s *status) WriteHeader(code int) {
	s.code = code
	s.ResponseWriter.WriteHeader(code)
}

func sayVersion() {
	version := runtime.Version()
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, module := range info.Deps {
			version += " " + module.Path + " " + module.Version
		}
	}
	fmt.Println(version)
}

func main() {
	if len(os.Args) == 2 && os.Args[1] == "version" {
		sayVersion()
		return
	}
	if len(os.Args) != 3 {
		log.Fatal("usage: go-proxy ADDRESS URL | version")
	}
	target, err := url.Parse(os.Args[2])
	if err != nil {
		log.Fatal(err)
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: &http.Transport{
			MaxIdleConnsPerHost: 256,
			IdleConnTimeout:     5 * time.Minute,
			DisableCompression:  true,
		},
	}
	all := &breakers{named: map[string]*gobreaker.TwoStepCircuitBreaker[any]{}}
	handle := func(w http.ResponseWriter, r *http.Request) {
		breaker := all.get(r.Header.Get("X-Service"))
		if breaker == nil {
			proxy.ServeHTTP(w, r)
			return
		}
		done, err := breaker.Allow()
		if err != nil {
			http.Error(w, "circuit open", http.StatusServiceUnavailable)
			return
		}
		own := &status{ResponseWriter: w, code: http.StatusOK}
		proxy.ServeHTTP(own, r)
		if own.code >= 500 {
			done(errFailed)
		} else {
			done(nil)
		}
	}
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	server := &http.Server{Addr: os.Args[1], Handler: http.HandlerFunc(handle), Protocols: protocols}
	log.Fatal(server.ListenAndServe())
}
