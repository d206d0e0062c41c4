package api

import (
	"errors"
	"net/http"
	"strconv"
	"strings"

	"github.com/tocsin-events/tocsin/internal/deliver"
	"github.com/tocsin-events/tocsin/internal/deliver/manager"
	"github.com/tocsin-events/tocsin/internal/deliver/store"
)

// number reads a parameter that is an id or a count.
func number(q map[string]string, name string, least, most, otherwise uint64) (uint64, error) {
	text, ok := q[name]
	if !ok || text == "" {
		return otherwise, nil
	}
	n, err := strconv.ParseUint(text, 10, 64)
	if err != nil || n < least || n > most {
		return 0, badRequest("the parameter %s is %s, it must be a number from %d to %d", name, strconv.Quote(short(text)), least, most)
	}
	return n, nil
}

// letterID reads the id in the path.
func (c *sinkCall) letterID() (uint64, error) {
	id, err := strconv.ParseUint(c.r.PathValue("id"), 10, 64)
	if err != nil || id == 0 {
		return 0, badRequest("%s is no id of a dead letter; ids are numbers", strconv.Quote(short(c.r.PathValue("id"))))
	}
	return id, nil
}

// letters lists dead letters with ids after the parameter after, at most limit. A letter
// that cannot be read is on the list with why.
func (c *sinkCall) letters() (any, int, error) {
	q, err := c.query("after", "limit")
	if err != nil {
		return nil, 0, err
	}
	after, err := number(q, "after", 0, 1<<63, 0)
	if err != nil {
		return nil, 0, err
	}
	limit, err := number(q, "limit", 1, maxLetterPage, letterPage)
	if err != nil {
		return nil, 0, err
	}
	answer := DeadLetterList{Letters: []DeadLetter{}}
	if answer.Total, answer.Bytes, err = c.a.sinks.Count(c.ctx, c.name); err != nil {
		return nil, 0, err
	}
	list, err := c.a.sinks.Letters(c.ctx, c.name, after, int(limit))
	if unreadable, ok := errors.AsType[*store.LetterError](err); ok {
		answer.Letters = append(answer.Letters, DeadLetter{ID: unreadable.ID, Unreadable: unreadable.Err.Error()})
		answer.Next = unreadable.ID
		err = nil
	}
	if err != nil {
		return nil, 0, err
	}
	for i := range list {
		answer.Letters = append(answer.Letters, letterAnswer(&list[i], false))
	}
	if n := len(list); n > 0 {
		// Fewer than asked for may be because they are large.
		answer.Next = list[n-1].ID
		if more, err := c.a.sinks.Letters(c.ctx, c.name, answer.Next, 1); err == nil && len(more) == 0 {
			answer.Next = 0
		}
	}
	c.read("")
	return answer, 0, nil
}

// letter answers one dead letter with its event.
func (c *sinkCall) letter() (any, int, error) {
	if _, err := c.query(); err != nil {
		return nil, 0, err
	}
	id, err := c.letterID()
	if err != nil {
		return nil, 0, err
	}
	l, err := c.a.sinks.Letter(c.ctx, c.name, id)
	if unreadable, ok := errors.AsType[*store.LetterError](err); ok {
		return DeadLetter{ID: id, Unreadable: unreadable.Err.Error()}, 0, nil
	}
	if err != nil {
		return nil, 0, err
	}
	c.read(l.Event.ID)
	return letterAnswer(&l, true), 0, nil
}

// read records that somebody has seen dead letters: events that subscribers see only as far
// as their policies allow.
func (c *sinkCall) read(eventID string) {
	r := c.record("sink-letters-read", "read", "event_id", eventID)
	r.Modified = false
	c.a.trail.Record(r)
}

// redrive has dead letters sent once more.
func (c *sinkCall) redrive() (any, int, error) {
	var body SinkRedriveRequest
	const known = "ids, from and to, or all"
	if err := c.readJSON(&body, known); err != nil {
		return nil, 0, err
	}
	chosen := 0
	for _, one := range []bool{len(body.IDs) > 0, body.From > 0 || body.To > 0, body.All} {
		if one {
			chosen++
		}
	}
	switch {
	case chosen != 1:
		return nil, 0, badRequest(`say which dead letters: {"ids":[1,2]}, {"from":1,"to":9}, or {"all":true}`)
	case body.To > 0 && body.From > body.To:
		return nil, 0, badRequest("from is more than to")
	case len(body.IDs) > deliver.MaxRedriveIDs:
		return nil, 0, badRequest("there are %d ids, at most %d are allowed; choose a range", len(body.IDs), deliver.MaxRedriveIDs)
	}
	id, n, err := c.a.sinks.Redrive(c.ctx, c.name, deliver.Letters{IDs: body.IDs, First: body.From, Last: body.To})
	if err != nil {
		return nil, 0, err
	}
	if err := c.commit(c.record("sink-redrive", "redrive", "dead_letters", strconv.FormatUint(n, 10), "replay", id), "the dead letters are tried again"); err != nil {
		return nil, 0, err
	}
	return SinkRedriven{ID: id, Letters: n}, http.StatusAccepted, nil
}

// purge removes the dead letter of the path, or those that the query says: ids=1,2,
// through=9, or all=true.
func (c *sinkCall) purge() (any, int, error) {
	var ids []uint64
	var through uint64
	if c.r.PathValue("id") != "" {
		if _, err := c.query(); err != nil {
			return nil, 0, err
		}
		id, err := c.letterID()
		if err != nil {
			return nil, 0, err
		}
		if _, err := c.a.sinks.Letter(c.ctx, c.name, id); errors.Is(err, deliver.ErrNoLetter) {
			return nil, 0, err
		}
		ids = []uint64{id}
	} else {
		q, err := c.query("ids", "through", "all")
		if err == nil {
			ids, through, err = purged(q)
		}
		if err != nil {
			return nil, 0, err
		}
	}
	n, err := c.a.sinks.Purge(c.ctx, c.name, ids, through)
	if n > 0 || err == nil {
		if err := c.commit(c.record("sink-purge", "delete", "dead_letters", strconv.FormatUint(n, 10)), "the dead letters were removed"); err != nil {
			return nil, 0, err
		}
	}
	if err != nil {
		return nil, 0, err
	}
	left, _, err := c.a.sinks.Count(c.ctx, c.name)
	return SinkPurged{Removed: n, Letters: left}, 0, err
}

// purged reads which dead letters are to be removed.
func purged(q map[string]string) (ids []uint64, through uint64, err error) {
	wrong := badRequest("say which dead letters: ids=1,2, through=9, or all=true")
	if len(q) != 1 {
		return nil, 0, wrong
	}
	switch {
	case q["all"] == "true":
		return nil, manager.AllLetters, nil
	case q["through"] != "":
		through, err = number(q, "through", 1, 1<<63, 0)
		return nil, through, err
	case q["ids"] != "":
		for text := range strings.SplitSeq(q["ids"], ",") {
			id, err := strconv.ParseUint(text, 10, 64)
			if err != nil || id == 0 {
				return nil, 0, badRequest("the parameter ids has %s, which is no id of a dead letter", strconv.Quote(short(text)))
			}
			ids = append(ids, id)
		}
		if len(ids) > deliver.MaxRedriveIDs {
			return nil, 0, badRequest("there are %d ids, at most %d are allowed; use through", len(ids), deliver.MaxRedriveIDs)
		}
		return ids, 0, nil
	}
	return nil, 0, wrong
}

// replay has a part of the journal sent once more.
func (c *sinkCall) replay() (any, int, error) {
	var body SinkReplayRequest
	if err := c.readJSON(&body, "since and until"); err != nil {
		return nil, 0, err
	}
	if body.Since == "" {
		return nil, 0, badRequest("since is missing; give a duration such as 15m, a time, a position, an event id, or oldest")
	}
	id, r, err := c.a.sinks.Replay(c.ctx, c.name, body.Since, body.Until)
	if err != nil {
		return nil, 0, err
	}
	answer := SinkReplayed{ID: id, After: r.After.String(), Until: r.Until.String()}
	if err := c.commit(c.record("sink-replay", "replay", "replay", id, "after", answer.After, "until", answer.Until), "the replay is under way"); err != nil {
		return nil, 0, err
	}
	return answer, http.StatusAccepted, nil
}

func (c *sinkCall) replays() (any, int, error) {
	if _, err := c.query(); err != nil {
		return nil, 0, err
	}
	i, err := c.a.sinks.Get(c.ctx, c.name)
	if err != nil {
		return nil, 0, err
	}
	answer := SinkReplays{Replays: []SinkReplay{}, Redrives: []SinkRedrive{}}
	replays, redrives := replayAnswers(i.Status)
	answer.Replays = append(answer.Replays, replays...)
	answer.Redrives = append(answer.Redrives, redrives...)
	return answer, 0, nil
}

// replayOf answers one replay or redrive.
func (c *sinkCall) replayOf() (any, int, error) {
	if _, err := c.query(); err != nil {
		return nil, 0, err
	}
	i, err := c.a.sinks.Get(c.ctx, c.name)
	if err != nil {
		return nil, 0, err
	}
	id := c.r.PathValue("id")
	replays, redrives := replayAnswers(i.Status)
	for _, r := range replays {
		if r.ID == id {
			return r, 0, nil
		}
	}
	for _, r := range redrives {
		if r.ID == id {
			return r, 0, nil
		}
	}
	return nil, 0, deliver.ErrNoReplay
}

func (c *sinkCall) cancelReplay() (any, int, error) {
	if _, err := c.query(); err != nil {
		return nil, 0, err
	}
	id := c.r.PathValue("id")
	if err := c.a.sinks.CancelReplay(c.ctx, c.name, id); err != nil {
		return nil, 0, err
	}
	if err := c.commit(c.record("sink-replay-cancel", "cancel", "replay", clip(id, 100)), "the replay is cancelled"); err != nil {
		return nil, 0, err
	}
	return c.replayOf()
}
