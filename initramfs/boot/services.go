package boot

import (
	"io"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"hearth/initramfs/cell"
	"hearth/initramfs/journal"
	"hearth/initramfs/supervise"
	"hearth/node/api"
)

// GenesisFile is where an image that was made for a ledger has its genesis.
const GenesisFile = "/etc/genesis.json"

type identity struct {
	name string
	uid  uint32
}

// listening are the services with a local interface, storing those with a folder
// on the data partition.
var (
	listening = []identity{{"vault", api.UIDVault}, {"node", api.UIDNode}, {"messenger", api.UIDMessenger}}
	storing   = listening
)

// socket is the name by which a service is called; ownSocket is where it listens:
// in a folder that only that service can write to, and socket links there.
func socket(name string) string    { return RunFolder + "/" + name + ".sock" }
func ownSocket(name string) string { return RunFolder + "/" + name + "/" + name + ".sock" }

// screenServices are those that a person sees. They start first, need neither
// disk nor network, and wait for the others on their own.
func screenServices(p Parameters, serial, panel string) []supervise.Service {
	local := []string{"-messenger", socket("messenger"), "-node", socket("node"), "-device", socket("device")}
	var list []supervise.Service
	if panel != "" {
		list = append(list, service(p, "panel", api.UIDPanel, 24, append([]string{"-virtual", panel}, local...)...))
	}
	if serial != "" {
		list = append(list, service(p, "console", api.UIDConsole, 24,
			append([]string{"-serial", serial, "-baud", strconv.Itoa(p.Baud)}, local...)...))
	}
	return list
}

// patient is the niceness of the services behind the screens: whoever looks at
// the device or types on it comes first.
const patient = 5

// keyServices are those that need the keys and the data partition.
func keyServices(p Parameters, say Say) []supervise.Service {
	seed := given(option{"-seed", p.Seed}, option{"-seed-pin", p.SeedPin})
	gateway := given(option{"-gateway", p.Gateway})
	vault := []string{"-dir", DataFolder + "/vault", "-tpm", tpmDevice, "-api", ownSocket("vault")}
	if p.Developer {
		vault = append(vault, "-developer")
	}
	list := []supervise.Service{service(p, "vault", api.UIDVault, 24, vault...)}
	messenger := []string{"-dir", DataFolder + "/messenger", "-vault", socket("vault")}
	if p.Public == "" {
		say("hearth.public is not set: no service node, nobody could reach it")
	} else {
		node := append([]string{"-dir", DataFolder + "/node", "-listen", ":22021",
			"-public", p.Public, "-vault", socket("vault"), "-api", ownSocket("node")}, gateway...)
		memory := 64
		if p.Ledger != "" {
			memory += 32
			node = append(node, given(option{"-ledger", p.Ledger}, option{"-peer", p.Peers}, option{"-join", p.Trust})...)
		} else {
			node = append(node, seed...)
		}
		list = append(list, service(p, "node", api.UIDNode, memory, node...))
		messenger = append(messenger, "-node", socket("node"))
	}
	messenger = slices.Concat(messenger, []string{"-api", ownSocket("messenger")}, seed, gateway, given(option{"-trust", p.Trust}))
	list = append(list, service(p, "messenger", api.UIDMessenger, 32, messenger...))
	for i := range list {
		list[i].Nice = patient
	}
	return list
}

// option is a flag of a role and what the command line says about it.
type option struct{ flag, value string }

// given are the arguments of those that it says something about.
func given(options ...option) (args []string) {
	for _, o := range options {
		if o.value != "" {
			args = append(args, o.flag, o.value)
		}
	}
	return args
}

// LogVariable names the variable that tells a role where its log goes: for the
// value "journal" it logs with the handler of package journal.
const LogVariable = "HEARTH_LOG"

// limits bound the services. What one of them may take, all others and PID 1 must be
// able to spare on a board of 512 MiB; each is several times what it uses. When memory
// ends all the same, the node goes first, which strangers fill and whose swarm has
// copies; the vault last, without which nothing opens.
var limits = map[string]supervise.Limits{
	"node":      {Memory: 192 << 20, Tasks: 128, Expendable: 600},
	"panel":     {Memory: 64 << 20, Tasks: 64, Expendable: 400},
	"console":   {Memory: 64 << 20, Tasks: 64, Expendable: 300},
	"messenger": {Memory: 160 << 20, Tasks: 128, Expendable: 200},
	"vault":     {Memory: 96 << 20, Tasks: 64, Expendable: -500},
}

// groupsFolder is where the control groups are mounted.
const groupsFolder = "/sys/fs/cgroup"

// limitServices lets PID 1 bound the services, as far as the kernel can.
func limitServices(reaper *supervise.Reaper, say Say) {
	err := unix.Mount("cgroup2", groupsFolder, "cgroup2", sealed, "")
	var groups *supervise.Groups
	var can []string
	if err == nil {
		groups, can, err = supervise.OpenGroups(groupsFolder)
	}
	if err != nil {
		say("nothing bounds the services: %v", err)
		return
	}
	reaper.Limit(groups)
	say("control groups bound %s", strings.Join(can, " and "))
}

// service describes one role of this program. memory, in MiB, is where the Go
// runtime begins to collect harder; it is no hard limit.
func service(p Parameters, name string, uid uint32, memory int, args ...string) supervise.Service {
	trace := "none" // a trace shows memory contents as numbers
	if p.Developer {
		trace = "single"
	}
	return supervise.Service{
		Name: name, Path: self, Args: append([]string{"hearth", name}, args...), UID: uid, GID: uid,
		Limits: limits[name],
		Apart:  true, Offline: uid != api.UIDNode && uid != api.UIDMessenger,
		Env: []string{
			"GOMEMLIMIT=" + strconv.Itoa(memory) + "MiB", "GOGC=50", "GOMAXPROCS=2", "GOTRACEBACK=" + trace,
			"HOME=/", "TMPDIR=/tmp", "TERM=vt100",
			LogVariable + "=journal", cell.Variable + "=1",
		},
	}
}

// newOutput gives each service its own source of journal lines, of which only the
// node's, who knows nothing of the account, may be kept.
func newOutput(log *journal.Journal) func(name string) io.Writer {
	return func(name string) io.Writer { return log.Source(name, name == "node") }
}
