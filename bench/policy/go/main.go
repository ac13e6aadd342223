// The cost of decisions of circuit breakers written in Go: a line of JSON per operation.
//
//	bench-policy REPETITIONS MILLISECONDS
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"time"

	"github.com/failsafe-go/failsafe-go"
	"github.com/failsafe-go/failsafe-go/circuitbreaker"
	"github.com/sony/gobreaker/v2"
)

const long = time.Hour

var errCall = errors.New("the call has failed")

// One operation: setUp returns a function that repeats it a given number of times.
type benchCase struct {
	library, operation string
	setUp              func() func(count int)
}

type result struct {
	Library   string    `json:"library"`
	Operation string    `json:"operation"`
	Nanos     []float64 `json:"nanos"`
}

// Keeps the compiler from removing computations whose result is stored here.
var (
	sinkErr  error
	sinkBool bool
	sinkDone func(error)
)

// Five failures in a row, or half of twenty in ten seconds.
func gobreakerSettings() gobreaker.Settings {
	return gobreaker.Settings{
		Interval:     10 * time.Second,
		BucketPeriod: time.Second,
		Timeout:      long,
		ReadyToTrip: func(counts gobreaker.Counts) bool {
			return counts.ConsecutiveFailures >= 5 ||
				(counts.Requests >= 20 && counts.TotalFailures*2 >= counts.Requests)
		},
	}
}

// It evaluates the counts and never opens.
func gobreakerTolerant() gobreaker.Settings {
	settings := gobreakerSettings()
	settings.ReadyToTrip = func(counts gobreaker.Counts) bool {
		return counts.ConsecutiveFailures == 1<<32-1 ||
			(counts.Requests >= 20 && counts.TotalFailures > counts.Requests)
	}
	return settings
}

func gobreakerCases() []benchCase {
	library := "gobreaker " + version("github.com/sony/gobreaker/v2")
	good := func() (struct{}, error) { return struct{}{}, nil }
	bad := func() (struct{}, error) { return struct{}{}, errCall }
	execute := func(settings func() gobreaker.Settings, open bool, call func() (struct{}, error)) func() func(int) {
		return func() func(int) {
			breaker := gobreaker.NewCircuitBreaker[struct{}](settings())
			if open {
				for range 5 {
					_, _ = breaker.Execute(bad)
				}
				must(breaker.State() == gobreaker.StateOpen)
			}
			return func(count int) {
				for range count {
					_, sinkErr = breaker.Execute(call)
				}
			}
		}
	}
	twoSteps := func(settings func() gobreaker.Settings, err error) func() func(int) {
		return func() func(int) {
			breaker := gobreaker.NewTwoStepCircuitBreaker[struct{}](settings())
			return func(count int) {
				for range count {
					done, refused := breaker.Allow()
					sinkErr = refused
					done(err)
				}
			}
		}
	}
	pass := func() func(int) {
		breaker := gobreaker.NewTwoStepCircuitBreaker[struct{}](gobreakerSettings())
		return func(count int) {
			for range count {
				sinkDone, sinkErr = breaker.Allow()
			}
		}
	}
	return []benchCase{
		{library, "refuse", execute(gobreakerSettings, true, good)},
		{library, "pass+success", execute(gobreakerSettings, false, good)},
		{library, "pass+failure", execute(gobreakerTolerant, false, bad)},
		{library + ", two steps", "pass", pass},
		{library + ", two steps", "pass+success", twoSteps(gobreakerSettings, nil)},
		{library + ", two steps", "pass+failure", twoSteps(gobreakerTolerant, errCall)},
	}
}

// Half of twenty in ten seconds.
func failsafeBreaker() circuitbreaker.CircuitBreaker[any] {
	return circuitbreaker.NewBuilder[any]().
		WithFailureRateThreshold(0.5, 20, 10*time.Second).
		WithDelay(long).
		Build()
}

// All calls would have to fail, and one has succeeded.
func failsafeTolerant() circuitbreaker.CircuitBreaker[any] {
	breaker := circuitbreaker.NewBuilder[any]().
		WithFailureRateThreshold(1, 20, 10*time.Second).
		WithDelay(long).
		Build()
	breaker.RecordSuccess()
	return breaker
}

func failsafeOpen() circuitbreaker.CircuitBreaker[any] {
	breaker := failsafeBreaker()
	for range 20 {
		breaker.RecordFailure()
	}
	must(breaker.IsOpen())
	return breaker
}

func failsafeCases() []benchCase {
	library := "failsafe-go " + version("github.com/failsafe-go/failsafe-go")
	of := func(
		operation string,
		breaker func() circuitbreaker.CircuitBreaker[any],
		does func(breaker circuitbreaker.CircuitBreaker[any]),
	) benchCase {
		return benchCase{library, operation, func() func(int) {
			own := breaker()
			return func(count int) {
				for range count {
					does(own)
				}
			}
		}}
	}
	ask := func(own circuitbreaker.CircuitBreaker[any]) { sinkBool = own.TryAcquirePermit() }
	run := func(operation string, breaker func() circuitbreaker.CircuitBreaker[any], err error) benchCase {
		return benchCase{library + ", executor", operation, func() func(int) {
			executor := failsafe.With(breaker())
			call := func() error { return err }
			return func(count int) {
				for range count {
					sinkErr = executor.Run(call)
				}
			}
		}}
	}
	return []benchCase{
		of("pass", failsafeBreaker, ask),
		of("refuse", failsafeOpen, ask),
		of("success", failsafeBreaker, func(own circuitbreaker.CircuitBreaker[any]) { own.RecordSuccess() }),
		of("failure", failsafeTolerant, func(own circuitbreaker.CircuitBreaker[any]) { own.RecordFailure() }),
		of("pass+success", failsafeBreaker, func(own circuitbreaker.CircuitBreaker[any]) {
			if own.TryAcquirePermit() {
				own.RecordSuccess()
			}
		}),
		of("pass+failure", failsafeTolerant, func(own circuitbreaker.CircuitBreaker[any]) {
			if own.TryAcquirePermit() {
				own.RecordFailure()
			}
		}),
		run("refuse", failsafeOpen, nil),
		run("pass+success", failsafeBreaker, nil),
		run("pass+failure", failsafeTolerant, errCall),
	}
}

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: bench-policy REPETITIONS MILLISECONDS")
		os.Exit(2)
	}
	repetitions, err := strconv.Atoi(os.Args[1])
	must(err == nil)
	millis, err := strconv.Atoi(os.Args[2])
	must(err == nil)
	each := time.Duration(millis) * time.Millisecond

	cases := append(gobreakerCases(), failsafeCases()...)
	counts := make([]int, len(cases))
	for place, c := range cases {
		counts[place] = countFor(c, each)
	}
	nanos := make([][]float64, len(cases))
	for range repetitions {
		for place, c := range cases {
			took := timed(c, counts[place])
			nanos[place] = append(nanos[place], float64(took.Nanoseconds())/float64(counts[place]))
		}
	}
	out := json.NewEncoder(os.Stdout)
	for place, c := range cases {
		must(out.Encode(result{c.library, c.operation, nanos[place]}) == nil)
	}
}

func timed(c benchCase, count int) time.Duration {
	does := c.setUp()
	runtime.GC()
	begin := time.Now()
	does(count)
	return time.Since(begin)
}

// The number of repetitions that take about as long as each.
func countFor(c benchCase, each time.Duration) int {
	for count := 1000; ; count *= 2 {
		took := timed(c, count)
		if took*4 >= each {
			return max(1, int(float64(count)*float64(each)/float64(took)))
		}
	}
}

func must(holds bool) {
	if !holds {
		panic("the benchmark is not set up as it should be")
	}
}
