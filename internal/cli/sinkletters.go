package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/tocsin-events/tocsin/internal/api"
	"github.com/tocsin-events/tocsin/internal/deliver"
)

const sinkLettersLong = `Dead letters are events that a sink has given up, with why: the receiver said no
("refused"), or failed with them for too long ("failed"). They are kept until they are sent
once more ("redrive") and taken, or removed ("purge").

Dead letters are events: to see them takes read and sudo on sys/sinks/NAME.`

func newSinkLetters(s *Streams) *cobra.Command {
	cmd := newGroup("dlq", "Show, send once more, and remove dead letters", sinkLettersLong,
		newLetterList(s), newLetterShow(s), newLetterRedrive(s), newLetterPurge(s))
	cmd.Aliases = []string{"dead-letters"}
	return cmd
}

// letterPageSize is how many dead letters are asked for at once.
const letterPageSize = 500

// letters calls visit with the dead letters after an id, until it returns false. It returns
// how many there are in all.
func (c *connection) letters(ctx context.Context, name string, after uint64, visit func(api.DeadLetter, json.RawMessage) bool) (total uint64, err error) {
	for {
		var page struct {
			Letters []json.RawMessage `json:"dead_letters"`
			Total   uint64            `json:"total"`
			Next    uint64            `json:"next"`
		}
		query := url.Values{"after": {strconv.FormatUint(after, 10)}, "limit": {strconv.Itoa(letterPageSize)}}
		if _, err := c.sink(ctx, http.MethodGet, name, "/dead-letters", query, nil, &page); err != nil {
			return 0, err
		}
		for _, raw := range page.Letters {
			var l api.DeadLetter
			if err := decodeJSON(raw, &l); err != nil {
				return 0, c.advise(err)
			}
			if !visit(l, raw) {
				return page.Total, nil
			}
		}
		if page.Next <= after {
			return page.Total, nil
		}
		after = page.Next
	}
}

func newLetterList(s *Streams) *cobra.Command {
	var (
		format answerFlag
		limit  int
		after  uint64
	)
	cmd := sinkCommand(&cobra.Command{
		Use:   "list NAME",
		Short: "List the dead letters of a sink",
		Long: `List the dead letters of a sink, the oldest first. Their ids grow; those after --after are
listed, at most --limit.`,
		Example: `  tocsin sink dlq list deploys

  # Why, and how often?
  tocsin sink dlq list deploys --limit 0 -o json | jq -r '.[].reason' | sort | uniq -c`,
		Args: sinkArgs(1, "the NAME of the sink"),
	}, func(cmd *cobra.Command, c *connection, args []string) error {
		if limit < 0 {
			return usagef(cmd, "--limit %d: the number of dead letters cannot be negative", limit)
		}
		list, raw, more := []api.DeadLetter{}, []json.RawMessage{}, false
		total, err := c.letters(cmd.Context(), args[0], after, func(l api.DeadLetter, one json.RawMessage) bool {
			if more = limit > 0 && len(list) == limit; more {
				return false
			}
			list, raw = append(list, l), append(raw, one)
			return true
		})
		switch {
		case err != nil:
			return err
		case format == answerJSON:
			err = printJSON(s.Out, raw)
		case len(list) == 0:
			fmt.Fprintln(s.Err, "There are no dead letters.")
		default:
			err = printLetters(s, list)
		}
		if more {
			fmt.Fprintf(s.Err, "There are %d in all. Those that come next: --after %d; all: --limit 0.\n", total, list[len(list)-1].ID)
		}
		return err
	})
	format.register(cmd)
	cmd.Flags().IntVarP(&limit, "limit", "n", 100, "at most this `number`; 0 means all")
	cmd.Flags().Uint64Var(&after, "after", 0, "those with greater ids than this `id`")
	return cmd
}

func printLetters(s *Streams, list []api.DeadLetter) error {
	t := tabwriter.NewWriter(s.Out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "ID\tLAST ATTEMPT\tCAUSE\tATTEMPTS\tEVENT TYPE\tPATH\tREASON")
	for _, l := range list {
		if l.Unreadable != "" {
			fmt.Fprintf(t, "%d\t-\tunreadable\t-\t-\t-\t%s\n", l.ID, visible(l.Unreadable))
			continue
		}
		last := "-"
		if l.Last != nil {
			last = moment(*l.Last)
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%d\t%s\t%s\t%s\n", l.ID, last, visible(l.Cause), l.Attempts, visible(l.Type), visible(l.Namespace+l.Path), visible(l.Reason))
	}
	return t.Flush()
}

func newLetterShow(s *Streams) *cobra.Command {
	var format answerFlag
	cmd := sinkCommand(&cobra.Command{
		Use:     "show NAME ID",
		Short:   "Show a dead letter with its event",
		Example: "  tocsin sink dlq show deploys 7\n\n  # The event alone.\n  tocsin sink dlq show deploys 7 -o json | jq .event",
		Args: func(cmd *cobra.Command, args []string) error {
			if err := sinkArgs(2, "the NAME of the sink and the ID of the dead letter")(cmd, args); err != nil {
				return err
			}
			if _, err := parseLetterID(args[1]); err != nil {
				return usagef(cmd, "%w", err)
			}
			return nil
		},
	}, func(cmd *cobra.Command, c *connection, args []string) error {
		var l api.DeadLetter
		id, _ := parseLetterID(args[1]) // checked before
		raw, err := c.sink(cmd.Context(), http.MethodGet, args[0], fmt.Sprintf("/dead-letters/%d", id), nil, nil, &l)
		switch {
		case err != nil:
			return err
		case format == answerJSON:
			return printJSON(s.Out, json.RawMessage(raw))
		case l.Unreadable != "":
			return fmt.Errorf("the dead letter %d cannot be read: %s", id, visible(l.Unreadable))
		}
		status, tried := "", ""
		if l.Status != 0 {
			status = fmt.Sprint(l.Status)
		}
		if l.First != nil && l.Last != nil {
			tried = fmt.Sprintf("%s, from %s to %s", plural(l.Attempts, "time"), moment(*l.First), moment(*l.Last))
		}
		happened := ""
		if l.Time != nil {
			happened = moment(*l.Time)
		}
		err = printRows(s.Out, row{"id", fmt.Sprint(l.ID)},
			row{"cause", map[string]string{"refused": "refused: the receiver said no", "failed": "failed: it could not be delivered"}[l.Cause]},
			row{"tried", tried}, row{"status", status}, row{"reason", visible(l.Reason)},
			row{"event", visible(l.EventID)}, row{"type", visible(l.Type)}, row{"source", visible(l.Source)},
			row{"namespace", visible(l.Namespace)}, row{"path", visible(l.Path)}, row{"happened", happened}, row{"position", visible(l.Position)})
		if err != nil {
			return err
		}
		return printPart(s.Out, "Event", l.Event)
	})
	format.register(cmd)
	return cmd
}

// letterRange is a range of ids, both included.
type letterRange struct{ first, last uint64 }

// letterChoice is which dead letters a command is about.
type letterChoice struct {
	all    bool
	ranges []letterRange
}

func parseLetterID(text string) (uint64, error) {
	id, err := strconv.ParseUint(text, 10, 63)
	if err != nil || id == 0 {
		return 0, fmt.Errorf("%q is no id of a dead letter; ids are numbers", visible(text))
	}
	return id, nil
}

// parseLetters reads ids and ranges: 3, 3-9, 3,5-7.
func parseLetters(args []string) (ranges []letterRange, err error) {
	for _, arg := range args {
		for part := range strings.SplitSeq(arg, ",") {
			from, to, isRange := strings.Cut(part, "-")
			var r letterRange
			if r.first, err = parseLetterID(from); err != nil {
				return nil, err
			}
			r.last = r.first
			if isRange {
				if r.last, err = parseLetterID(to); err != nil {
					return nil, err
				}
			}
			if r.first > r.last {
				return nil, fmt.Errorf("the range %s ends before it begins", visible(part))
			}
			ranges = append(ranges, r)
		}
	}
	return ranges, nil
}

func (l *letterChoice) args(cmd *cobra.Command, args []string) (err error) {
	if len(args) == 0 {
		return usagef(cmd, "the NAME of the sink is missing")
	}
	if err := checkSinkName(cmd, args[0]); err != nil {
		return err
	}
	if l.ranges, err = parseLetters(args[1:]); err != nil {
		return usagef(cmd, "%w", err)
	}
	if (len(l.ranges) > 0) == l.all {
		return usagef(cmd, "say which dead letters: ids and ranges such as 3 5-9, or --all")
	}
	return nil
}

// ids returns the ids of those that there are, sorted.
func (l *letterChoice) ids(ctx context.Context, c *connection, name string) ([]uint64, error) {
	var ids []uint64
	for _, r := range l.ranges {
		if r.first == r.last {
			ids = append(ids, r.first)
			continue
		}
		_, err := c.letters(ctx, name, r.first-1, func(letter api.DeadLetter, _ json.RawMessage) bool {
			if letter.ID <= r.last {
				ids = append(ids, letter.ID)
			}
			return letter.ID <= r.last
		})
		if err != nil {
			return nil, err
		}
	}
	slices.Sort(ids)
	return slices.Compact(ids), nil
}

// errNoLetters means that a choice has none.
var errNoLetters = errors.New("there are no such dead letters")

// newSinkRedrive is "dlq redrive" under the name by which it is looked for first.
func newSinkRedrive(s *Streams) *cobra.Command {
	cmd := newLetterRedrive(s)
	cmd.Example = strings.ReplaceAll(cmd.Example, "sink dlq redrive", "sink redrive")
	return cmd
}

func newLetterRedrive(s *Streams) *cobra.Command {
	var (
		choice letterChoice
		format answerFlag
		wait   waitFlags
	)
	cmd := sinkCommand(&cobra.Command{
		Use:   "redrive NAME (ID... | --all)",
		Short: "Send dead letters once more",
		Long: `Send dead letters once more, beside what is new. Those that are taken are removed; the
others stay, with what was said last, under a new id.

With --wait the command shows how far it is, and ends when all were tried. It goes on in
the hub without the command, too; "tocsin sink replays" shows it, "tocsin sink cancel" ends
it.

Exit codes: 0 done, or with --wait: all were taken; 1 not done, or not within --timeout;
3 with --wait: some were refused again.`,
		Example: `  tocsin sink dlq redrive deploys 7
  tocsin sink dlq redrive deploys 3-9 12
  tocsin sink dlq redrive deploys --all --wait`,
		Args: func(cmd *cobra.Command, args []string) error { return choice.args(cmd, args) },
	}, func(cmd *cobra.Command, c *connection, args []string) error {
		name := args[0]
		body := api.SinkRedriveRequest{All: choice.all}
		if len(choice.ranges) == 1 && choice.ranges[0].first != choice.ranges[0].last {
			body.From, body.To = choice.ranges[0].first, choice.ranges[0].last
		} else if !choice.all {
			var err error
			if body.IDs, err = choice.ids(cmd.Context(), c, name); err != nil {
				return err
			}
			switch n := len(body.IDs); {
			case n == 0:
				return errNoLetters
			case n > deliver.MaxRedriveIDs:
				return fmt.Errorf("these are %d dead letters, and at most %d are possible that are no range; choose one range", n, deliver.MaxRedriveIDs)
			}
		}
		var redriven api.SinkRedriven
		raw, err := c.sink(cmd.Context(), http.MethodPost, name, "/dead-letters/redrive", nil, body, &redriven)
		switch {
		case err != nil:
			return err
		case redriven.ID == "" && !choice.all:
			return errNoLetters
		case redriven.ID == "" && format == answerText:
			_, err := fmt.Fprintln(s.Out, "There are no dead letters.")
			return err
		case redriven.ID != "" && wait.wait:
			return wait.redriven(cmd.Context(), s, c, format, name, redriven)
		case format == answerJSON:
			return printJSON(s.Out, json.RawMessage(raw))
		}
		_, err = fmt.Fprintf(s.Out, "Sent once more: %s. \"tocsin sink replays %s\" shows how far that is; its id is %s.\n", plural(redriven.Letters, "dead letter"), name, visible(redriven.ID))
		return err
	})
	format.register(cmd)
	wait.register(cmd, "wait until all were tried")
	cmd.Flags().BoolVar(&choice.all, "all", false, "all dead letters that there are now")
	return cmd
}

// purgeAtOnce is how many ids are put into one URL.
const purgeAtOnce = 200

func newLetterPurge(s *Streams) *cobra.Command {
	var (
		choice letterChoice
		format answerFlag
		yes    bool
	)
	cmd := sinkCommand(&cobra.Command{
		Use:   "purge NAME (ID... | --all)",
		Short: "Remove dead letters for good",
		Long: `Remove dead letters for good: their events are then not sent to this sink, unless they are
still in the journal and replayed. On a terminal it asks; anywhere else --yes has to say
that it is meant.`,
		Example: "  tocsin sink dlq purge deploys 3-9\n\n  tocsin sink dlq purge deploys --all --yes",
		Args:    func(cmd *cobra.Command, args []string) error { return choice.args(cmd, args) },
	}, func(cmd *cobra.Command, c *connection, args []string) error {
		name := args[0]
		var ids []uint64
		question := fmt.Sprintf("Remove all dead letters of the sink %s?", name)
		if !choice.all {
			var err error
			if ids, err = choice.ids(cmd.Context(), c, name); err != nil {
				return err
			}
			if len(ids) == 0 {
				return errNoLetters
			}
			question = fmt.Sprintf("Remove %s of the sink %s?", plural(len(ids), "dead letter"), name)
		}
		if !yes {
			if ok, err := confirm(cmd.Context(), cmd, s, question); err != nil || !ok {
				return err
			}
		}
		var sum api.SinkPurged
		remove := func(query url.Values) error {
			var purged api.SinkPurged
			_, err := c.sink(cmd.Context(), http.MethodDelete, name, "/dead-letters", query, nil, &purged)
			sum.Removed += purged.Removed
			sum.Letters = purged.Letters
			return err
		}
		var err error
		if choice.all {
			err = remove(url.Values{"all": {"true"}})
		}
		for some := range slices.Chunk(ids, purgeAtOnce) {
			if err == nil {
				err = remove(url.Values{"ids": {joinIDs(some)}})
			}
		}
		switch {
		case err != nil && sum.Removed > 0:
			return fmt.Errorf("%s removed, then: %w", plural(sum.Removed, "dead letter"), err)
		case err != nil:
			return err
		case sum.Removed == 0 && !choice.all:
			return errNoLetters
		case format == answerJSON:
			return printJSON(s.Out, sum)
		}
		_, err = fmt.Fprintf(s.Out, "Removed: %s. There are %d left.\n", plural(sum.Removed, "dead letter"), sum.Letters)
		return err
	})
	format.register(cmd)
	cmd.Flags().BoolVar(&choice.all, "all", false, "all dead letters of the sink")
	cmd.Flags().BoolVar(&yes, "yes", false, "do not ask")
	return cmd
}

func joinIDs(ids []uint64) string {
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = strconv.FormatUint(id, 10)
	}
	return strings.Join(texts, ",")
}
