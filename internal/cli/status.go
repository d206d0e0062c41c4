package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/internal/health"
	"github.com/tocsin-events/tocsin/internal/vaultclient"
)

func newStatus(s *Streams) *cobra.Command {
	var (
		f      connectFlags
		format answerFlag
	)
	cmd := &cobra.Command{
		Use:   "status",
		Short: "Show how a hub is",
		Long: `Show how a hub is, with everything that it checks. No token is needed.

Exit codes: 0 the hub serves; 1 it does not, or cannot be reached.`,
		Example: "  tocsin status\n  tocsin status -o json --address https://hub.example:8280",
		Args:    exactArgs(0, ""),
		RunE: func(cmd *cobra.Command, _ []string) error {
			c, err := f.withoutToken()
			if err != nil {
				return err
			}
			return c.status(cmd.Context(), s, format)
		},
	}
	f.register(cmd)
	format.register(cmd)
	return cmd
}

// errNotServing is the outcome of a status that was printed.
var errNotServing = errors.New("the hub does not serve")

func (c *connection) status(ctx context.Context, s *Streams, format answerFlag) error {
	v, err := c.client()
	if err != nil {
		return err
	}
	status, body, err := v.Fetch(ctx, "api/v1/health")
	if err != nil {
		return c.advise(err)
	}
	var report health.Report
	if json.Unmarshal(body, &report) != nil || report.Status == "" || status != http.StatusOK && status != http.StatusServiceUnavailable {
		return c.advise(fmt.Errorf("%w: the page of its health has status %d", vaultclient.ErrNoAnswer, status))
	}
	version := hubVersion(ctx, v)
	if format == answerJSON {
		err = printJSON(s.Out, struct {
			Version string `json:"version,omitempty"`
			health.Report
		}{version, report})
	} else {
		err = printReport(s.Out, c.address, version, report)
	}
	if err == nil && !report.Ready {
		err = errNotServing
	}
	return err
}

// hubVersion returns the version of the program that runs there, "" if it does not say.
func hubVersion(ctx context.Context, v *vaultclient.Client) string {
	_, body, err := v.Fetch(ctx, "v1/sys/seal-status")
	if err != nil {
		return ""
	}
	var seal struct{ Version string }
	if json.Unmarshal(body, &seal) != nil {
		return ""
	}
	return seal.Version
}

// printReport prints the outcome of every check, and since when it is so.
func printReport(w io.Writer, address, version string, report health.Report) error {
	rows := []row{{"address", visible(address)}, {"version", visible(version)}, {"status", visible(report.Status)}}
	for _, check := range report.Checks {
		state := "ok"
		if !check.OK {
			state = visible(check.Reason) + " (since " + check.Since.Local().Format(time.DateTime) + ")"
		}
		rows = append(rows, row{visible(check.Name), state})
	}
	return printRows(w, rows...)
}
