package top

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Order is what rows are sorted by.
type Order byte

// The orders, as the keys that choose them; each puts the most first.
const (
	ByCPU      Order = 'c'
	ByMemory   Order = 'm'
	ByRequests Order = 'r'
	ByIdle     Order = 'i'
)

// Orders are their names.
var Orders = map[string]Order{"cpu": ByCPU, "memory": ByMemory, "requests": ByRequests, "idle": ByIdle}

func (o Order) String() string {
	for name, is := range Orders {
		if is == o {
			return name
		}
	}
	return "cpu"
}

// Sort puts the rows in order; equal ones by name.
func (r Report) Sort(by Order) {
	key := map[Order]func(Row) float64{
		ByCPU: func(x Row) float64 { return number(x.Cores) }, ByMemory: func(x Row) float64 { return number(x.Memory) },
		ByRequests: func(x Row) float64 { return x.RequestsRate }, ByIdle: func(x Row) float64 { return float64(x.idle(r.Time)) },
	}[by]
	slices.SortStableFunc(r.Rows, func(a, b Row) int {
		if c := cmp.Compare(key(b), key(a)); c != 0 {
			return c
		}
		return cmp.Compare(a.name(), b.name())
	})
}

// number sorts what was not measured last.
func number[N int64 | float64](n *N) float64 {
	if n == nil {
		return -1
	}
	return float64(*n)
}

// idle is how long nobody used a server; -1 when it is not known.
func (r Row) idle(now time.Time) time.Duration {
	last := r.LastActivity
	if r.Started != nil && (last == nil || r.Started.After(*last)) {
		last = r.Started
	}
	if last == nil {
		return -1
	}
	return max(0, now.Sub(*last))
}

// column is one of the table's; those of a higher rank go first where there is no room.
type column struct {
	title string
	width int
	rank  int
	cell  func(Row, time.Time) string
}

const nameLeast, nameMost = 12, 40 // columns of a terminal

var columns = []column{
	{"STATE", 8, 3, func(r Row, _ time.Time) string { return r.State }},
	{"REQ/S", 7, 1, func(r Row, _ time.Time) string { return decimal(r.RequestsRate) }},
	{"WS", 5, 4, func(r Row, _ time.Time) string { return strconv.FormatInt(max(0, r.Websockets), 10) }},
	{"IN/S", 6, 6, func(r Row, _ time.Time) string { return size(r.ReceivedRate) }},
	{"OUT/S", 6, 5, func(r Row, _ time.Time) string { return size(r.SentRate) }},
	{"CPU%", 6, 0, func(r Row, _ time.Time) string { return percent(r.Cores) }},
	{"MEM", 6, 0, func(r Row, _ time.Time) string {
		if r.Memory == nil {
			return "-"
		}
		return size(float64(*r.Memory))
	}},
	{"IDLE", 6, 2, func(r Row, now time.Time) string { return span(r.idle(now)) }},
}

// fitting are the columns that there is room for beside a name.
func fitting(width int) []column {
	list := slices.Clone(columns)
	for {
		need, last := nameLeast, 0
		for i, c := range list {
			need += 1 + c.width
			if c.rank > list[last].rank {
				last = i
			}
		}
		if need <= width || list[last].rank == 0 {
			return list
		}
		list = slices.Delete(list, last, last+1)
	}
}

// Lines are the report as text: a summary, an empty line, titles and rows. Nothing is wider than width
// columns, and there are at most height lines; 0 stands for as many as it takes.
func (r Report) Lines(width, height int, by Order) []string {
	if width <= 0 {
		width = 200
	}
	list := fitting(width)
	room := width
	for _, c := range list {
		room -= 1 + c.width
	}
	longest := nameLeast
	for _, row := range r.Rows {
		longest = max(longest, utf8.RuneCountInString(row.name()))
	}
	room = max(1, min(room, longest, nameMost))
	lines := []string{Cut(r.summary(by), width), "", line("SERVER", room, width, list, func(c column) string { return c.title })}
	for _, row := range r.Rows {
		lines = append(lines, line(row.name(), room, width, list, func(c column) string { return c.cell(row, r.Time) }))
	}
	if height > 0 && len(lines) > height {
		lines = lines[:height]
	}
	return lines
}

// line is a name and a cell of each column.
func line(name string, room, width int, list []column, cell func(column) string) string {
	cells := []string{pad(name, room)}
	for _, c := range list {
		cells = append(cells, lead(cell(c), c.width))
	}
	return Cut(strings.Join(cells, " "), width)
}

func (r Report) summary(by Order) string {
	var all Row
	cores, ready := 0.0, 0
	for _, row := range r.Rows {
		all.RequestsRate += row.RequestsRate
		all.ReceivedRate += row.ReceivedRate
		all.SentRate += row.SentRate
		all.Websockets += max(0, row.Websockets)
		if row.Cores != nil {
			cores += *row.Cores
		}
		if row.State == "ready" {
			ready++
		}
	}
	return fmt.Sprintf("%s  %d servers, %d ready  %s req/s  %d websockets  in %s/s  out %s/s  CPU %s  by %s", r.Time.Format(time.TimeOnly), len(r.Rows), ready,
		decimal(all.RequestsRate), all.Websockets, size(all.ReceivedRate), size(all.SentRate), percent(&cores), by)
}

func decimal(n float64) string {
	if n >= 100 {
		return fmt.Sprintf("%.0f", n)
	}
	return fmt.Sprintf("%.1f", n)
}

// percent is of one core.
func percent(cores *float64) string {
	if cores == nil {
		return "-"
	}
	return decimal(100 * *cores)
}

// size is a number of bytes in at most 5 columns, in powers of 1024.
func size(n float64) string {
	const units = "BKMGTPE"
	i := 0
	for ; n >= 999.5 && i < len(units)-1; i++ {
		n /= 1024
	}
	if i == 0 || n >= 99.95 {
		return fmt.Sprintf("%.0f%c", n, units[i])
	}
	return fmt.Sprintf("%.1f%c", n, units[i])
}

// span is a time in its two largest units.
func span(d time.Duration) string {
	s := int64(d / time.Second)
	switch {
	case d < 0:
		return "-"
	case s < 60:
		return fmt.Sprintf("%ds", s)
	case s < 3600:
		return fmt.Sprintf("%dm%02d", s/60, s%60)
	case s < 86400:
		return fmt.Sprintf("%dh%02d", s/3600, s/60%60)
	}
	return fmt.Sprintf("%dd%02d", s/86400, s/3600%24)
}

// pad writes text in exactly n columns, from the left.
func pad(text string, n int) string {
	text = Cut(text, n)
	return text + strings.Repeat(" ", n-utf8.RuneCountInString(text))
}

// lead does the same from the right.
func lead(text string, n int) string {
	text = Cut(text, n)
	return strings.Repeat(" ", n-utf8.RuneCountInString(text)) + text
}

// Cut makes text safe to print and at most n columns wide.
func Cut(text string, n int) string {
	text = Plain(text)
	if utf8.RuneCountInString(text) <= n {
		return text
	}
	runes := []rune(text)
	if n <= 1 {
		return string(runes[:max(0, n)])
	}
	return string(runes[:n-1]) + "~"
}

// Plain puts a question mark for all that is not printed in one column of its own: what steers a
// terminal, what turns text around, and what two readers see differently.
func Plain(text string) string {
	return strings.Map(func(c rune) rune {
		if c < 0x250 && unicode.IsPrint(c) && c != 0xad { // Latin scripts
			return c
		}
		return '?'
	}, text)
}
