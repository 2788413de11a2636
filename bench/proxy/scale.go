package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"carrel/hub"
	"carrel/internal/measured"
	"carrel/internal/program"
)

// loadCrowd asks for people's pages at random, anew for each request, on kept connections: those of as
// many as the job says. Before that it asks once for each of those, and where the job says so for
// everybody: the proxy then knows them all, and has asked its store a moment ago about those that the
// window is for.
func loadCrowd(ctx context.Context, j job) (result, error) {
	conns, err := j.connect(ctx, 4<<10)
	if err != nil {
		return result{}, err
	}
	people := slices.Clone(j.People)
	rand.Shuffle(len(people), func(i, k int) { people[i], people[k] = people[k], people[i] })
	active := people[max(0, len(people)-cmp.Or(j.Active, len(people))):]
	first := active
	if j.Everyone {
		first = people // those who are active come last
	}
	if err := together(conns, func(i int, c *conn) error {
		for n := i; n < len(first) && ctx.Err() == nil; n += len(conns) {
			_ = c.SetDeadline(time.Now().Add(patience))
			c.visit(first[n])
			if err := c.fetch(); err != nil {
				return err
			}
		}
		return nil
	}); err != nil {
		return result{}, err
	}
	if err := program.Pause(ctx, j.Settle); err != nil {
		return result{}, err
	}
	return j.forAWhile(ctx, conns, func(_ int, c *conn, _ uint64) error {
		c.visit(active[rand.IntN(len(active))])
		return c.fetch()
	})
}

// visit turns the connection to another person.
func (c *conn) visit(who person) {
	path := who.Path + "api/contents"
	c.who, c.want, c.get = who, page(path), request(who, "GET", path, "")
}

type scaleOptions struct {
	common
	rounds, small, large, bursts int
	scale                        float64
	idle                         time.Duration
}

// An adding is one route that was added.
type adding struct {
	Side    string  `json:"side"`
	Burst   int     `json:"burst"`
	Watched bool    `json:"watched"`             // whether everyone asked for their page at once, which is load too
	Stored  float64 `json:"stored_ms"`           // until the store had it and had told the proxies
	Served  float64 `json:"served_ms,omitempty"` // until the proxy led there
}

type scaleReport struct {
	report
	Small   int                `json:"small"`
	Large   int                `json:"large"`
	Added   []adding           `json:"added"`
	Ratio   float64            `json:"cpu_large_by_small"`       // with as many people active in both
	Crowd   float64            `json:"cpu_large_by_small_crowd"` // with more of them active in the large one
	Idle    map[string]float64 `json:"idle_cpu_ms_per_minute"`   // of each proxy, with nobody asking for anything
	Stored  float64            `json:"stored_p99_ms"`
	Served  float64            `json:"served_p99_ms"`
	StartUp float64            `json:"large_start_seconds"` // from the proxy's launch until it served
}

// The two loads of the comparison. In both deployments the same number of people is active in the
// first, so that the sizes of the tables are all that differs; in the second all of the small
// deployment's are and a crowd of the large one's, whose data no processor's caches hold.
var (
	crowdMeasure = measure{"crowd", job{Shape: "crowd", Conns: 32, For: 3 * time.Second, Settle: 12 * time.Second, Active: 10_000, Everyone: true}, []figure{perSecond, cpuPer100k}}
	sameMeasure  = measure{"same", job{Shape: "crowd", Conns: 32, For: 3 * time.Second, Settle: 12 * time.Second}, []figure{perSecond, cpuPer100k}}
)

const atOnce = 50

// runScale measures what routes and sessions cost where there are few and where there are many: two
// deployments of Carrel, which take turns.
func runScale(ctx context.Context, args []string, out io.Writer) error {
	var o scaleOptions
	flags := flag.NewFlagSet("proxy routes", flag.ContinueOnError)
	flags.SetOutput(out)
	o.common.flags(flags, "carrel", "routes.json")
	flags.IntVar(&o.rounds, "rounds", 5, "counted rounds; a warm-up comes before them")
	flags.Float64Var(&o.scale, "scale", 1, "times a measurement's usual length")
	flags.IntVar(&o.small, "small", 100, "people, each with a session and a route, in the small deployment")
	flags.IntVar(&o.large, "large", 100_000, "likewise, in the large one")
	flags.DurationVar(&o.idle, "idle", time.Minute, "how long nobody asks for anything")
	flags.IntVar(&o.bursts, "bursts", 40, "times that 50 routes are added at once, in the large one")
	if err := flags.Parse(args); err != nil {
		return err
	}
	if err := o.common.check(flags); err != nil {
		return err
	}
	if o.rounds < 1 || o.small < atOnce || o.large < o.small || o.bursts < 2 || o.only != "carrel" {
		return fmt.Errorf("give at least one round, two bursts, %d people or more, and Carrel alone", atOnce)
	}
	r := &scaleReport{Small: o.small, Large: o.large}
	r.Started, r.Machine, r.Rounds, r.Versions = time.Now(), machine(), o.rounds, map[string]string{}
	err := o.with(ctx, func(_ []side, backend string) error { return o.compare(ctx, backend, r, out) })
	if err != nil {
		return err
	}
	r.sum(out)
	return write(o.out, r, out)
}

// compare brings both deployments up and measures them by turns, then adds routes to the large one.
func (o scaleOptions) compare(ctx context.Context, backend string, r *scaleReport, out io.Writer) (err error) {
	var sides []side
	for i, n := range []int{o.small, o.large} {
		c := &carrel{binary: o.binary, dir: filepath.Join(o.dir, fmt.Sprintf("carrel-%d", i)), size: n, title: fmt.Sprintf("carrel-%d", n)}
		defer func() { err = errors.Join(err, c.down()) }() //nolint:revive // both run until the end
		fmt.Fprintf(out, "%s: writing sessions and routes\n", c.name())
		if err := c.up(ctx, backend); err != nil {
			return fmt.Errorf("%s: %w", c.name(), err)
		}
		r.StartUp = c.started.Seconds()
		fmt.Fprintf(out, "%s: served %.2f s after its launch\n", c.name(), r.StartUp)
		r.Versions[c.name()] = c.version(ctx)
		sides = append(sides, c)
	}
	turns := options{common: o.common, scale: o.scale}
	same := sameMeasure
	same.job.Active = o.small
	for round := range o.rounds + 1 {
		for _, m := range []measure{crowdMeasure, same} { // the crowd first: the large proxy then knows all sessions
			for turn := range sides {
				if err := turns.turn(ctx, sides[order(len(sides), round, turn)], m, round, turn, &r.report, out); err != nil {
					return err
				}
			}
		}
	}
	if r.Idle, err = idleCost(ctx, sides, o.idle); err != nil {
		return err
	}
	large := sides[1].(*carrel) //nolint:forcetypeassert // made above
	for burst := range o.bursts {
		added, err := large.addAtOnce(ctx, backend, burst, burst%2 == 1)
		if err != nil {
			return fmt.Errorf("burst %d: %w", burst, err)
		}
		r.Added = append(r.Added, added...)
	}
	return nil
}

// idleCost is what each proxy's processes use meanwhile, in milliseconds of processor time a minute.
// Both are looked at over the same time, after what the load left to be told is told.
func idleCost(ctx context.Context, sides []side, d time.Duration) (map[string]float64, error) {
	if err := program.Pause(ctx, sameMeasure.job.Settle); err != nil {
		return nil, err
	}
	windows := make([]window, len(sides))
	for i, s := range sides {
		var err error
		if windows[i], err = begin(s.pid()); err != nil {
			return nil, err
		}
	}
	if err := program.Pause(ctx, d); err != nil {
		return nil, err
	}
	costs := map[string]float64{}
	for i, s := range sides {
		r, err := windows[i].end(0)
		if err != nil {
			return nil, err
		}
		costs[s.name()] = r.CPU / r.Seconds * 60_000
	}
	return costs, nil
}

// addAtOnce takes 50 people's routes away, adds them all at once, and waits until each is led to; with
// watch everyone asks as soon as their route is stored, without it when all are.
func (c *carrel) addAtOnce(ctx context.Context, backend string, burst int, watch bool) ([]adding, error) {
	at, err := hub.ParseEndpoint("http://127.0.0.1:" + backend)
	if err != nil {
		return nil, err
	}
	conns := make([]*conn, atOnce)
	routes := make([]hub.Route, atOnce)
	for i := range conns {
		if routes[i], err = routeOf(nameOf(i), at); err != nil {
			return nil, err
		}
		routes[i].Generation = hub.Generation(burst + 2)
		if err := c.store.DeleteRoute(ctx, routes[i].Key, routes[i].Generation); err != nil {
			return nil, err
		}
		if conns[i], err = dial(ctx, c.at(), c.crowd[i], 4<<10); err != nil {
			return nil, err
		}
		defer conns[i].Close() //nolint:revive // all are open at once
		if err := conns[i].until(ctx, " 424 "); err != nil {
			return nil, err
		}
	}
	list := make([]adding, atOnce)
	var start sync.WaitGroup
	start.Add(1)
	var all sync.WaitGroup
	errs := make([]error, atOnce)
	for i := range list {
		all.Go(func() {
			start.Wait()
			began := time.Now()
			if errs[i] = c.store.PutRoute(ctx, routes[i]); errs[i] != nil {
				return
			}
			list[i] = adding{Side: c.name(), Burst: burst, Watched: watch, Stored: time.Since(began).Seconds() * 1000}
			if watch {
				errs[i] = conns[i].until(ctx, " 200 ")
				list[i].Served = time.Since(began).Seconds() * 1000
			}
		})
	}
	start.Done()
	all.Wait()
	for i, c := range conns {
		if errs[i] == nil {
			errs[i] = c.until(ctx, " 200 ")
		}
	}
	return list, errors.Join(errs...)
}

// until asks again and again until the answer has this status; another may be 200 or 424 only.
func (c *conn) until(ctx context.Context, status string) error {
	for deadline := time.Now().Add(patience); time.Now().Before(deadline) && ctx.Err() == nil; {
		_ = c.SetDeadline(deadline)
		if _, err := c.Write(c.get); err != nil {
			return err
		}
		other := " 200 "
		if status == other {
			other = " 424 "
		}
		is, err := c.either(status, other)
		if err != nil || is {
			return err
		}
	}
	return fmt.Errorf("%s: no status%s within %v", c.who.Path, status, patience)
}

// either reads an answer that has one of two statuses, and tells whether it is the first.
func (c *conn) either(first, second string) (bool, error) {
	if err := readHead(c.r, &c.head); err != nil {
		return false, noEOF(err)
	}
	is := c.head.has(first)
	if !is && !c.head.has(second) {
		return false, fmt.Errorf("%s: %.60q", c.who.Path, c.head.first)
	}
	_, err := io.CopyN(io.Discard, c.r, c.head.length)
	return is, err
}

// ratioOf is the median over the rounds of the large deployment's CPU per request by the small one's.
func (r *scaleReport) ratioOf(m measure) float64 {
	var ratios []float64
	for _, big := range r.Samples {
		for _, few := range r.Samples {
			if big.Round > 0 && big.Round == few.Round && big.Measure == m.name && few.Measure == m.name &&
				big.Side == fmt.Sprintf("carrel-%d", r.Large) && few.Side == fmt.Sprintf("carrel-%d", r.Small) {
				ratios = append(ratios, cpuPer100k.of(big.result)/cpuPer100k.of(few.result))
			}
		}
	}
	return measured.Median(ratios)
}

// sum prints what came out.
func (r *scaleReport) sum(out io.Writer) {
	var stored, served []time.Duration
	for _, a := range r.Added {
		if a.Watched {
			served = append(served, time.Duration(a.Served*float64(time.Millisecond)))
		} else {
			stored = append(stored, time.Duration(a.Stored*float64(time.Millisecond)))
		}
	}
	r.Ratio, r.Crowd, r.Stored, r.Served = r.ratioOf(sameMeasure), r.ratioOf(crowdMeasure), milliseconds(stored, 0.99), milliseconds(served, 0.99)
	fmt.Fprintf(out, "\nCPU per request, %d people by %d, of whom as many are active:  %.2f  at most 1.20  %s\n", r.Large, r.Small, r.Ratio, verdict(r.Ratio <= 1.2))
	fmt.Fprintf(out, "  the same with %d active in the large one (the processor's caches hold fewer of them):  %.2f\n", min(r.Large, crowdMeasure.job.Active), r.Crowd)
	for _, n := range []int{r.Small, r.Large} {
		fmt.Fprintf(out, "CPU of the proxy with nobody there, %d people:  %.0f ms a minute\n", n, r.Idle[fmt.Sprintf("carrel-%d", n)])
	}
	fmt.Fprintf(out, "adding a route, %d at once, stored: p50 %.2f ms, p99 %.2f ms  at most 2.00  %s\n", atOnce, milliseconds(stored, 0.5), r.Stored, verdict(r.Stored <= 2))
	fmt.Fprintf(out, "                            served: p50 %.2f ms, p99 %.2f ms\n", milliseconds(served, 0.5), r.Served)
}
