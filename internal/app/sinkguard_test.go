package app

import (
	"context"
	"fmt"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/tocsin-events/tocsin/event"
	"github.com/tocsin-events/tocsin/internal/config"
	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/manager"
	"github.com/tocsin-events/tocsin/internal/outbound"
	"github.com/tocsin-events/tocsin/internal/sink/kafka"
	"github.com/tocsin-events/tocsin/internal/sink/nats"
	"github.com/tocsin-events/tocsin/internal/sink/otlplogs"
)

// Whoever adds a sink while the hub runs gets to no address inside, whatever the type of the
// sink is, unless the configuration file says so.
func TestAddedSinksAreGuarded(t *testing.T) {
	inside := []string{"127.0.0.1", "169.254.169.254", "10.0.0.1", "[::1]", "localhost", "metadata.google.internal"}
	a := &App{version: "1.2.3", config: config.Default()}
	allowing := &App{version: "1.2.3", config: config.Default()}
	allowing.config.Delivery.Allow = []string{"127.0.0.1", "169.254.169.254", "10.0.0.1", "::1", "localhost", "metadata.google.internal"}
	for name, definition := range map[string]string{
		"otlp http": `{"type":"otlp_logs","otlp_logs":{"url":"http://%s:4318"}}`,
		"otlp grpc": `{"type":"otlp_logs","otlp_logs":{"url":"http://%s:4317","protocol":"grpc"}}`,
		"nats":      `{"type":"nats","nats":{"urls":["nats://nats.example.com:4222","nats://%s:4222"]}}`,
		"kafka":     `{"type":"kafka","kafka":{"topic":"t","brokers":["kafka.example.com:9092","%s:9092"]}}`,
		"registry":  `{"type":"kafka","kafka":{"topic":"t","brokers":["kafka.example.com:9092"],"encoding":"avro","schema_registry":{"url":"http://%s:8081"}}}`,
		"webhook":   `{"type":"webhook","webhook":{"url":"http://%s:8080/"}}`,
	} {
		for _, host := range inside {
			c, err := config.ParseSink("a", fmt.Appendf(nil, definition, host))
			if err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if s, err := a.makeSink(c, manager.API); err == nil || !strings.Contains(err.Error(), "delivery.allow") {
				t.Errorf("%s to %s: %v", name, host, err)
				if err == nil {
					s.Close()
				}
			}
			s, err := allowing.makeSink(c, manager.API)
			if err != nil {
				t.Errorf("%s to %s, allowed: %v", name, host, err)
				continue
			}
			s.Close()
		}
	}
}

// It is the moment of connecting that counts, whatever a name was found to be before, and
// wherever a broker says that the others are.
func TestConnectionsOfAddedSinksAreGuarded(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	accepted := make(chan struct{}, 100)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			accepted <- struct{}{}
			conn.Close()
		}
	}()
	guard, err := outbound.NewGuard()
	if err != nil {
		t.Fatal(err)
	}
	at := l.Addr().String()
	makers := map[string]func(dial func(context.Context, string, string) (net.Conn, error)) (deliver.Sink, error){
		"otlp http": func(dial func(context.Context, string, string) (net.Conn, error)) (deliver.Sink, error) {
			return otlplogs.New(otlplogs.Options{URL: "http://" + at, Timeout: 2 * time.Second, Dial: dial})
		},
		"otlp grpc": func(dial func(context.Context, string, string) (net.Conn, error)) (deliver.Sink, error) {
			return otlplogs.New(otlplogs.Options{URL: "http://" + at, Protocol: otlplogs.GRPC, Timeout: 2 * time.Second, Dial: dial})
		},
		"nats": func(dial func(context.Context, string, string) (net.Conn, error)) (deliver.Sink, error) {
			return nats.New(nats.Options{URLs: []string{"nats://" + at}, Subject: "a", Format: "cloudevents", Timeout: 2 * time.Second, Dial: dial})
		},
		"kafka": func(dial func(context.Context, string, string) (net.Conn, error)) (deliver.Sink, error) {
			return kafka.New(kafka.Options{Brokers: []string{at}, Topic: "t", Timeout: time.Second, Dial: dial})
		},
		"registry": func(dial func(context.Context, string, string) (net.Conn, error)) (deliver.Sink, error) {
			return kafka.New(kafka.Options{Brokers: []string{at}, Topic: "t", Encoding: kafka.Avro, Registry: kafka.Registry{URL: "http://" + at}, Timeout: time.Second, Dial: dial})
		},
		"registry TLS": func(dial func(context.Context, string, string) (net.Conn, error)) (deliver.Sink, error) {
			return kafka.New(kafka.Options{Brokers: []string{at}, Topic: "t", Encoding: kafka.Avro, Registry: kafka.Registry{URL: "https://" + at}, Timeout: time.Second, Dial: dial})
		},
	}
	send := func(name string, dial func(context.Context, string, string) (net.Conn, error)) deliver.Result {
		s, err := makers[name](dial)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		defer s.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		e := event.NewNotification("shop/sold", event.MetadataPath, "a")
		e.Source = "/shop"
		b := &deliver.Batch{Attempt: 1, Items: []deliver.Item{{Event: e}}}
		return b.Results(s.Send(ctx, b))[0]
	}
	for name := range makers {
		r := send(name, guard.DialContext)
		if r.Outcome == deliver.Delivered || !strings.Contains(r.Reason, "delivery.allow") {
			t.Errorf("%s: %+v", name, r)
		}
		select {
		case <-accepted:
			t.Errorf("%s: was connected", name)
		default:
		}
	}
	// And without it there would have been a connection.
	for name := range makers {
		send(name, nil)
		select {
		case <-accepted:
		case <-time.After(time.Minute):
			t.Errorf("%s: was never connected", name)
		}
		for len(accepted) > 0 {
			<-accepted
		}
	}
}
