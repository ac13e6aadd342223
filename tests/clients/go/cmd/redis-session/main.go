// A session with an ordinary client library. Prints what it saw, a line each: the same with and without a proxy.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sort"
	"strings"
	"time"

	"github.com/redis/go-redis/v9"
)

func must[T any](value T, err error) T {
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(1)
	}
	return value
}

func main() {
	ctx := context.Background()
	client := redis.NewClient(&redis.Options{Addr: os.Args[1], Password: "secret", Protocol: 3, ClientName: "go"})
	defer client.Close()
	must(client.FlushAll(ctx).Result())
	fmt.Println("set", must(client.Set(ctx, "a", "1", 0).Result()))
	fmt.Println("get", must(client.Get(ctx, "a").Result()))
	fmt.Println("name", must(client.ClientGetName(ctx).Result()))
	fmt.Println("hash", must(client.HSet(ctx, "h", "x", 1, "y", 2).Result()), must(client.HGetAll(ctx, "h").Result()))

	piped := must(client.Pipelined(ctx, func(pipe redis.Pipeliner) error {
		for number := range 100 {
			pipe.Set(ctx, fmt.Sprintf("k%03d", number), number, 0)
			pipe.Get(ctx, fmt.Sprintf("k%03d", number))
		}
		return nil
	}))
	for _, command := range piped {
		fmt.Println("pipeline", command)
	}
	executed := must(client.TxPipelined(ctx, func(pipe redis.Pipeliner) error {
		pipe.Incr(ctx, "n")
		pipe.Incr(ctx, "n")
		pipe.Get(ctx, "n")
		return nil
	}))
	for _, command := range executed {
		fmt.Println("transaction", command)
	}
	err := client.Watch(ctx, func(tx *redis.Tx) error {
		must(client.Incr(ctx, "n").Result())
		_, err := tx.TxPipelined(ctx, func(pipe redis.Pipeliner) error { pipe.Incr(ctx, "n"); return nil })
		return err
	}, "n")
	fmt.Println("watch", errors.Is(err, redis.TxFailedErr))

	var keys []string
	for scan := client.Scan(ctx, 0, "k*", 7).Iterator(); scan.Next(ctx); {
		keys = append(keys, scan.Val())
	}
	sort.Strings(keys)
	fmt.Println("scan", strings.Join(keys, " "))
	fmt.Println("blocked in vain", client.BLPop(ctx, time.Second, "none").Err())
	time.AfterFunc(200*time.Millisecond, func() { client.RPush(ctx, "queue", "job") })
	fmt.Println("blocked", must(client.BLPop(ctx, 5*time.Second, "queue").Result()))
	fmt.Println("error", client.Incr(ctx, "h").Err())

	subscription := client.Subscribe(ctx, "news")
	fmt.Println("subscribed", must(subscription.ReceiveTimeout(ctx, 5*time.Second)))
	must(client.Publish(ctx, "news", "hello").Result())
	fmt.Println("message", must(subscription.ReceiveTimeout(ctx, 5*time.Second)))
	subscription.Close()
	fmt.Println("script", must(client.Eval(ctx, "return {KEYS[1], ARGV[1]}", []string{"k"}, "v").Result()))
	must(client.Set(ctx, "big", strings.Repeat("x", 3_000_000), 0).Result())
	fmt.Println("bytes", len(must(client.Get(ctx, "big").Result())))
}
