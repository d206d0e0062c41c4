// Command bench measures Tocsin beside the limits of the machine and beside
// what people would use instead, in one run, and prints one table: what, ours,
// the limit or comparison measured in the same run, and the ratio that is
// wanted and reached. Absolute figures of a shared machine mean little; the
// ratios do, because each of ours runs alternately with what it is compared to.
//
//	go run ./test/bench              # everything
//	go run ./test/bench -only append # the rows whose name contains "append"
package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// settings are the conditions of a run.
type settings struct {
	dir     string        // a directory on the disk to measure
	rounds  int           // how often each measurement is repeated
	window  time.Duration // how long each timed measurement lasts
	logSize int64         // bytes of the audit log of the memory row
	ingest  int64         // bytes of the audit log of the ingest row
}

// A row is one line of the table. measure is called once per round and returns
// our value and the value it is compared with, taken one after the other.
type row struct {
	name    string
	against string
	unit    string
	rounds  int     // 0 = settings.rounds
	want    float64 // wanted ours/against
	most    bool    // ours is a cost: the ratio must stay below want
	measure func(context.Context, settings) (ours, against float64, err error)
}

func main() {
	if len(os.Args) > 1 && os.Args[1] == pluginHost {
		os.Exit(hostPlugin())
	}
	var s settings
	only := flag.String("only", "", "run only the rows whose name contains this text")
	flag.StringVar(&s.dir, "dir", os.TempDir(), "directory on the disk to measure")
	flag.IntVar(&s.rounds, "rounds", 3, "repetitions of each measurement; the table shows the median")
	flag.DurationVar(&s.window, "time", 3*time.Second, "length of each timed measurement")
	flag.Int64Var(&s.ingest, "ingest-bytes", 400<<20, "size of the audit log that is ingested")
	flag.Int64Var(&s.logSize, "follow-bytes", 5<<30, "size of the audit log that is followed for the memory row")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	ok, err := run(ctx, os.Stdout, s, *only)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	if !ok {
		os.Exit(3)
	}
}

func run(ctx context.Context, w io.Writer, s settings, only string) (ok bool, err error) {
	dir, err := os.MkdirTemp(s.dir, "tocsin-bench-")
	if err != nil {
		return false, err
	}
	defer os.RemoveAll(dir)
	s.dir = dir
	ok = true
	table := tabwriter.NewWriter(w, 2, 4, 2, ' ', 0)
	fmt.Fprintln(table, "WHAT\tOURS\tBESIDE\tRATIO [min..max]\tWANTED\t")
	for _, r := range rows() {
		if !strings.Contains(r.name, only) {
			continue
		}
		fmt.Fprintf(os.Stderr, "measuring %s ...\n", r.name)
		var ours, against, ratios []float64
		rounds := r.rounds
		if rounds == 0 {
			rounds = s.rounds
		}
		for range rounds {
			a, b, err := r.measure(ctx, s)
			if err != nil {
				return false, fmt.Errorf("%s: %w", r.name, err)
			}
			ours, against, ratios = append(ours, a), append(against, b), append(ratios, a/b)
		}
		ratio, wanted, reached := median(ratios), fmt.Sprintf(">= %.2f", r.want), median(ratios) >= r.want
		if r.most {
			wanted, reached = fmt.Sprintf("<= %.2f", r.want), ratio <= r.want
		}
		mark := "ok"
		if !reached {
			mark, ok = "MISSED", false
		}
		fmt.Fprintf(table, "%s\t%s%s\t%s%s (%s)\t%.2f [%.2f..%.2f]\t%s %s\t\n", r.name, human(median(ours)), r.unit,
			human(median(against)), r.unit, r.against, ratio, slices.Min(ratios), slices.Max(ratios), wanted, mark)
	}
	return ok, table.Flush()
}

func median(v []float64) float64 {
	v = slices.Sorted(slices.Values(v))
	return v[len(v)/2]
}

// human is a number with a prefix for the unit that follows.
func human(v float64) string {
	switch {
	case v >= 1e6:
		return fmt.Sprintf("%.3g M", v/1e6)
	case v >= 1e3:
		return fmt.Sprintf("%.3g k", v/1e3)
	}
	return fmt.Sprintf("%.3g ", v)
}
