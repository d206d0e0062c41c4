package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/internal/api"
)

func newSinkReplay(s *Streams) *cobra.Command {
	var (
		format       answerFlag
		wait         waitFlags
		since, until string
	)
	cmd := sinkCommand(&cobra.Command{
		Use:   "replay NAME --since WHEN",
		Short: "Send a part of the journal to a sink once more",
		Long: `Send the events of a part of the journal that the sink selects once more, beside what is
new. They have the same ids as before, so that receivers can tell, and are marked as a
replay where the format has a place for that.

WHEN is a duration (24h, 7d), an RFC 3339 time, an event id, a position, or oldest. Without
--until it ends where the journal ends now.

With --wait the command shows how far it is. It goes on in the hub without the command,
too, also after a restart.

Exit codes: 0 begun, or with --wait: done; 1 not begun, cancelled, or not within --timeout;
3 with --wait: some events became dead letters, or the journal did not have them any more.`,
		Example: `  tocsin sink replay deploys --since 24h
  tocsin sink replay deploys --since 2026-03-04T05:00:00Z --until 2026-03-04T06:00:00Z --wait`,
		Args: sinkArgs(1, "the NAME of the sink"),
	}, func(cmd *cobra.Command, c *connection, args []string) error {
		if since == "" {
			return usagef(cmd, "--since is missing: a duration such as 24h, a time, an event id, a position, or oldest")
		}
		var replayed api.SinkReplayed
		raw, err := c.sink(cmd.Context(), http.MethodPost, args[0], "/replay", nil, api.SinkReplayRequest{Since: sinceValue(since), Until: sinceValue(until)}, &replayed)
		switch {
		case err != nil:
			return err
		case wait.wait:
			return wait.replayed(cmd.Context(), s, c, format, args[0], replayed.ID)
		case format == answerJSON:
			return printJSON(s.Out, json.RawMessage(raw))
		}
		_, err = fmt.Fprintf(s.Out, "The replay has begun. \"tocsin sink replays %s\" shows how far it is; its id is %s.\n", args[0], visible(replayed.ID))
		return err
	})
	format.register(cmd)
	wait.register(cmd, "wait until everything was sent")
	cmd.Flags().StringVar(&since, "since", "", "`where` it begins")
	cmd.Flags().StringVar(&until, "until", "", "`where` it ends")
	return cmd
}

func newSinkReplays(s *Streams) *cobra.Command {
	var format answerFlag
	cmd := sinkCommand(&cobra.Command{
		Use:   "replays NAME",
		Short: "Show replays and redrives of a sink",
		Long: `Show the replays of a sink and what is redriven of its dead letters: those under way, and
those that have ended in the last hour.`,
		Example: "  tocsin sink replays deploys",
		Args:    sinkArgs(1, "the NAME of the sink"),
	}, func(cmd *cobra.Command, c *connection, args []string) error {
		var all api.SinkReplays
		raw, err := c.sink(cmd.Context(), http.MethodGet, args[0], "/replays", nil, nil, &all)
		switch {
		case err != nil:
			return err
		case format == answerJSON:
			return printJSON(s.Out, json.RawMessage(raw))
		case len(all.Replays)+len(all.Redrives) == 0:
			fmt.Fprintln(s.Err, "There are no replays or redrives.")
			return nil
		}
		var rows []row
		for _, r := range all.Replays {
			rows = append(rows, row{"replay", replayInWords(r)})
		}
		for _, r := range all.Redrives {
			rows = append(rows, row{"redrive", redriveInWords(r)})
		}
		return printRows(s.Out, rows...)
	})
	format.register(cmd)
	return cmd
}

func newSinkCancel(s *Streams) *cobra.Command {
	var format answerFlag
	cmd := sinkCommand(&cobra.Command{
		Use:     "cancel NAME ID",
		Short:   "End a replay or redrive",
		Long:    `End a replay or redrive. What was sent is sent; dead letters that were not tried stay what they are.`,
		Example: "  tocsin sink cancel deploys 01a21bc7-5149-7061-af82-7779e32b14fe",
		Args: func(cmd *cobra.Command, args []string) error {
			if err := sinkArgs(2, "the NAME of the sink and the ID of the replay or redrive")(cmd, args); err != nil {
				return err
			}
			if !isReplayID(args[1]) {
				return usagef(cmd, "%q is no id of a replay or redrive; \"tocsin sink replays %s\" shows them", visible(args[1]), args[0])
			}
			return nil
		},
	}, func(cmd *cobra.Command, c *connection, args []string) error {
		raw, err := c.sink(cmd.Context(), http.MethodDelete, args[0], "/replays/"+args[1], nil, nil, nil)
		switch {
		case err != nil:
			return err
		case format == answerJSON:
			return printJSON(s.Out, json.RawMessage(raw))
		}
		_, err = fmt.Fprintln(s.Out, "It is cancelled.")
		return err
	})
	format.register(cmd)
	return cmd
}

// isReplayID says whether a text can stand in the path of a request.
func isReplayID(text string) bool {
	for _, r := range text {
		if (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && r != '-' {
			return false
		}
	}
	return text != "" && len(text) <= 100
}

func replayInWords(r api.SinkReplay) string {
	return fmt.Sprintf("%s: %s, begun %s, %d sent%s", visible(r.ID), visible(r.State), moment(r.Begun), r.Sent, also(count{r.SetAside, "became dead letters"}, count{r.Missed, "were not in the journal any more"}))
}

func redriveInWords(r api.SinkRedrive) string {
	return fmt.Sprintf("%s: %s, begun %s, %d delivered%s", visible(r.ID), visible(r.State), moment(r.Begun), r.Sent, also(count{r.Refused, "stay dead letters"}))
}

// waitFlags are the flags of commands that can wait for what they have begun.
type waitFlags struct {
	wait    bool
	timeout durationFlag
}

func (f *waitFlags) register(cmd *cobra.Command, usage string) {
	cmd.Flags().BoolVar(&f.wait, "wait", false, usage)
	cmd.Flags().Var(&f.timeout, "timeout", "with --wait: wait no longer than this")
}

// errStillRunning is why the wait has ended.
var errStillRunning = errors.New("it is not done within the time of --timeout")

// waitInterval is how often the hub is asked.
const waitInterval = 300 * time.Millisecond

// until asks how a sink is until done says that this is the end. It returns what it was then.
// On a terminal progress is shown; elsewhere it is said once why nothing happens.
func (f *waitFlags) until(ctx context.Context, s *Streams, c *connection, name, id string, look func(*api.Sink) (progress string, found, done bool)) (err error) {
	if f.timeout != 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, time.Duration(f.timeout), errStillRunning)
		defer cancel()
	}
	shown, told := isTerminal(s.Err), ""
	defer func() {
		if shown {
			fmt.Fprint(s.Err, eraseLine)
		}
		if err != nil {
			err = &adviceError{err, fmt.Sprintf("It may go on in the hub: \"tocsin sink replays %s\", or end it with \"tocsin sink cancel %s %s\".", name, name, visible(id))}
		}
	}()
	for {
		var sink api.Sink
		if _, err := c.sink(ctx, http.MethodGet, name, "", nil, nil, &sink); err != nil {
			return waitError(ctx, err)
		}
		progress, found, done := look(&sink)
		if !found {
			return errors.New("the hub does not know any more how it ended")
		}
		if done {
			return nil
		}
		why := ""
		if sink.State != "running" && sink.State != "starting" {
			why = fmt.Sprintf("the sink is %s", visible(sink.State))
			if problem := problemOf(&sink); problem != "" {
				why += ": " + visible(problem)
			}
		}
		switch {
		case shown:
			if why != "" {
				progress += "; " + why
			}
			fmt.Fprintf(s.Err, "%s%s", eraseLine, fit(progress, outputWidth(s.Err)))
		case why != "" && sink.State != told:
			told = sink.State
			fmt.Fprintf(s.Err, "Waiting: %s.\n", why)
		}
		if err := pause(ctx, waitInterval); err != nil {
			return waitError(ctx, err)
		}
	}
}

// waitError is why a wait ended: the end of the time before what that has broken.
func waitError(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); errors.Is(cause, errStillRunning) {
		return cause
	}
	return err
}

// redriven waits for a redrive and says how it ended.
func (f *waitFlags) redriven(ctx context.Context, s *Streams, c *connection, format answerFlag, name string, begun api.SinkRedriven) error {
	var r api.SinkRedrive
	err := f.until(ctx, s, c, name, begun.ID, func(sink *api.Sink) (string, bool, bool) {
		for _, one := range sink.Redrives {
			if one.ID == begun.ID {
				r = one
				return fmt.Sprintf("%d of %d delivered, %d refused again", r.Sent, begun.Letters, r.Refused), true, r.State != "running"
			}
		}
		return "", false, false
	})
	if err != nil {
		return err
	}
	if format == answerJSON {
		err = printJSON(s.Out, r)
	} else {
		_, err = fmt.Fprintf(s.Out, "Delivered: %d of %s%s.\n", r.Sent, plural(begun.Letters, "dead letter"), also(count{r.Refused, "stay"}))
	}
	switch {
	case err != nil:
		return err
	case r.State == "cancelled":
		return errors.New("the redrive was cancelled")
	case r.Refused > 0:
		return &incompleteError{fmt.Sprintf("\"tocsin sink dlq list %s\" shows why.", name)}
	}
	return nil
}

// replayed waits for a replay and says how it ended.
func (f *waitFlags) replayed(ctx context.Context, s *Streams, c *connection, format answerFlag, name, id string) error {
	var r api.SinkReplay
	err := f.until(ctx, s, c, name, id, func(sink *api.Sink) (string, bool, bool) {
		for _, one := range sink.Replays {
			if one.ID == id {
				r = one
				return fmt.Sprintf("%d sent, %d became dead letters", r.Sent, r.SetAside), true, r.State != "running"
			}
		}
		return "", false, false
	})
	if err != nil {
		return err
	}
	if format == answerJSON {
		err = printJSON(s.Out, r)
	} else {
		_, err = fmt.Fprintf(s.Out, "Sent once more: %s%s.\n", plural(r.Sent, "event"), also(count{r.SetAside, "became dead letters"}, count{r.Missed, "were not in the journal any more"}))
	}
	switch {
	case err != nil:
		return err
	case r.State == "cancelled":
		return errors.New("the replay was cancelled")
	case r.SetAside > 0:
		return &incompleteError{fmt.Sprintf("\"tocsin sink dlq list %s\" shows why.", name)}
	case r.Missed > 0:
		return &incompleteError{""}
	}
	return nil
}
