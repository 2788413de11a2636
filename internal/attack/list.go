package main

// An attack is one line of the list of hostile acts that the project is built against: what is done, what is
// expected of it, and the tests that really do it.
type attack struct {
	nr       int // of the list; 0: beyond it
	name     string
	expected string
	tests    []made
	later    string // what of it is not made here, and why
}

// made are tests of one package: functions, or subtests as `go test -run` names them. A test tells what it saw
// by t.Attr("seen-4", "…"), of attack 4; of one beyond the list it is 0.
type made struct {
	pkg   string // its directory
	names []string
}

func docker(names ...string) made { return made{"spawner/docker", names} }

const withRuns = "the attacks on the service that runs posted code are not in this list yet"

// attacks is the list, by number. The numbers 30 to 49 that are missing concern the edge and signing in, which
// docs/threat-model-edge.md tells of.
var attacks = []attack{
	{nr: 1, name: "a cell that spins", expected: "its own share of the CPU only; a neighbour computes", tests: []made{docker("TestBombs")}},
	{nr: 2, name: "sleep for ever in a run", expected: "ended at the wall limit", later: withRuns},
	{nr: 3, name: "infinite recursion", expected: "RecursionError; where the kernel dies, the page is told and it comes back", tests: []made{{"internal/e2e", []string{"TestHostileCells"}}}},
	{nr: 4, name: "fork bomb, thread bomb", expected: "EAGAIN at the limit; all killed with the server", tests: []made{docker("TestBombs")}},
	{nr: 5, name: "ignores SIGTERM, paused too", expected: "SIGKILL after the grace period", tests: []made{docker("TestIgnoresSIGTERM")}},
	{nr: 6, name: "memory bomb", expected: "it alone is killed, and the page says so; the server, a neighbour and the hub go on", tests: []made{docker("TestBombs", "TestOutOfMemory", "TestOutOfMemoryBefore"), {"internal/e2e", []string{"TestHostileCells"}}}},
	{nr: 7, name: "fill memory files, mappings, tmpfs, /dev/shm", expected: "killed at the memory limit, or ENOSPC", tests: []made{docker("TestWritablePaths")}},
	{nr: 8, name: "fill each writable path", expected: "ENOSPC or EROFS; the owner starts again and deletes", tests: []made{docker("TestWritablePaths", "TestHomeIsCapped", "TestHomeInMemory")}},
	{nr: 9, name: "files without end", expected: "ENOSPC; gone in seconds", tests: []made{docker("TestWritablePaths", "TestHomeIsCapped")}},
	{nr: 10, name: "descriptors without end", expected: "EMFILE", tests: []made{docker("TestBombs")}},
	{nr: 11, name: "a flood of output, of a server and of a cell", expected: "capped; memory of our processes flat", tests: []made{docker("TestLogFlood"), {"internal/e2e", []string{"TestHostileCells"}}}, later: "in a run: " + withRuns},
	{nr: 12, name: "invalid UTF-8, NUL, escapes in output", expected: "encoded safely, told as text", tests: []made{docker("TestLogFlood"), {"internal/e2e", []string{"TestHostileCells"}}}},
	{nr: 13, name: "crashes", expected: "no core file, and no leave to make one", tests: []made{docker("TestNothingOfTheHost", "TestCrashes")}},
	{nr: 14, name: "mount, unshare, ptrace, bpf, io_uring, keyctl, AF_ALG and more", expected: "EPERM", tests: []made{docker("TestSystemCalls")}},
	{nr: 15, name: "setuid programs", expected: "no right gained", tests: []made{docker("TestNothingOfTheHost")}},
	{nr: 16, name: "docker.sock, /dev/mem, release_agent, sysrq and more", expected: "absent or denied", tests: []made{docker("TestNothingOfTheHost")}},
	{nr: 17, name: "the metadata address in its forms, by name and by redirect", expected: "dropped", tests: []made{docker("TestNetworkNone", "TestNetworkOpen", "TestNames", "TestRedirectToMetadata")}},
	{nr: 18, name: "private ranges, the gateway, ports of this machine, Redis", expected: "dropped; Redis listens on no port", tests: []made{docker("TestNetworkNone", "TestNetworkOpen"), {"internal/redisserver", []string{"TestItIsReachedByItsSocketAlone"}}}},
	{nr: 19, name: "a neighbour's address, forged ARP", expected: "dropped; EPERM", tests: []made{docker("TestNetworkNone", "TestNetworkOpen", "TestNoForgedPackets")}},
	{nr: 20, name: "a flood of connections and of UDP, raw sockets, the mail port", expected: "capped, EPERM, dropped; a neighbour connects", tests: []made{docker("TestNoForgedPackets", "TestFloods")}},
	{nr: 21, name: "tokens read from /proc/*/environ", expected: "the own server's alone; dead after its stop", tests: []made{docker("TestNothingOfTheHost", "TestTokensEndWithTheirServer")}},
	{nr: 22, name: "a slot's control socket: garbage, many claims", expected: "refused; each slot is one person's", tests: []made{docker("TestSlotRefusesGarbage", "TestOneOfManyClaims")}},
	{nr: 23, name: "symlink, hard link, device in what is taken in", expected: "refused, and nothing has changed", tests: []made{docker("TestHostileArchives")}, later: "result files: " + withRuns},
	{nr: 24, name: "names with ../, absolute, escapes, NUL, a megabyte", expected: "refused with the field", tests: []made{docker("TestHostileArchives", "TestHarmlessParts"), {"hub/api", []string{"TestHostileNames"}}}},
	{nr: 25, name: "an archive without end, and of files without end", expected: "stopped at the cap", tests: []made{docker("TestHostileArchives", "TestVolumeLeavesRoom")}},
	{nr: 26, name: "a forged status line on stdout", expected: "not trusted", later: withRuns},
	{nr: 27, name: "arguments with newline, ;, $()", expected: "literal", tests: []made{docker("TestArgumentsAreLiteral")}},
	{nr: 28, name: "limits of 0, -1, NaN, 1e309, over the most", expected: "refused with the field, or the default", tests: []made{docker("TestDefaults"), {"internal/config", []string{"TestEveryFaultIsToldWithItsPlace"}}, {"hub/api", []string{"TestLimitsOfTokens"}}}},
	{nr: 29, name: "a result that holds HTML", expected: "text/plain, nosniff", later: withRuns},
	{nr: 30, name: "user names with ../, %2f, look-alikes, capitals, a megabyte", expected: "refused, or one person's", tests: []made{{"hub", []string{"TestParseUserName"}}, {"hub/api", []string{"TestHostileNames"}}}},
	{nr: 31, name: "encoded slashes and dots", expected: "never another's server", tests: []made{{"proxy", []string{"TestPaths"}}}},
	{nr: 49, name: "start racing start, and stop", expected: "one container, one home", tests: []made{docker("TestTwoHubsStartOne", "TestStopRacingStart")}},
	{name: "an image that lies about itself", expected: "it makes no difference", tests: []made{docker("TestHostileImage")}},
	{name: "somebody takes the packet filter away", expected: "back within seconds", tests: []made{docker("TestFilterComesBack")}},
	{name: "a home's directory that leads elsewhere", expected: "refused", tests: []made{docker("TestBindDoesNotEscape")}},
	{name: "what unpacks archives is taken over", expected: "no network, no right, one home", tests: []made{docker("TestWorkerIsWalled")}},
}
