package console

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"hearth/node/api"
	"hearth/ui/devicetest"
)

// says types a line and gives what the console answers.
func (u *user) says(at *int, line string) string {
	u.t.Helper()
	u.key(line + "\r")
	before := *at
	*at = u.waitPrompt(before)
	return strings.Join(u.lines(before, *at-1), "\n")
}

func TestFilesAreSentAndSaved(t *testing.T) {
	s := devicetest.Start(t)
	s.Open()
	s.Change(func() {
		s.Contacts = []*api.Contact{{SessionId: devicetest.Bob, Name: "Bob"}}
		s.Messages = []*api.Message{{SessionId: devicetest.Bob, Id: 1, Text: "[attachment]", Attachments: []*api.Attachment{
			{Name: "a.txt"}, {Name: "../../.profile"}, {Name: "/"}}}}
		s.Files = map[devicetest.File][]byte{{With: devicetest.Bob, ID: 1}: []byte("first"), {With: devicetest.Bob, ID: 1, File: 1}: []byte("second"),
			{With: devicetest.Bob, ID: 1, File: 2}: []byte("third")}
	})
	u := sit(t, s, func(c *Config) { c.Node, c.Device, c.MayLeave = nil, nil, true })
	at := u.waitPrompt(0)
	dir := t.TempDir()
	content := bytes.Repeat([]byte("content "), 20_000)
	source := filepath.Join(dir, "my notes.txt")
	if err := os.WriteFile(source, content, 0o600); err != nil {
		t.Fatal(err)
	}
	sound := filepath.Join(dir, "Note.M4A")
	if err := os.WriteFile(sound, []byte("sound"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ line, want string }{
		{"sendfile Bob " + source, "Sent; 3 of the 3 nodes"},
		{"read Bob", "file my notes.txt, text/plain, 160000 bytes"},
		{"sendfile Bob " + dir, "is not a file."},
		{"sendfile Bob " + dir + "/nothing", "no such file"},
		{"sendfile Bob", "Say to whom and which file"},
		{"sendfile Nobody " + source, "Nobody is called"},
		{"sendvoice Bob " + sound, "Sent; 3 of the 3 nodes"},
		{"read Bob", "voice message Note.M4A, audio/mp4, 5 bytes"},
		{"sendvoice Bob " + source, "A voice message is a file that ends in .mp3"},
		{"sendvoice Bob " + dir + "/nothing.mp3", "no such file"},
		{"sendvoice Bob", "Say to whom and which file"},
		{"save Bob 1 " + dir + "/one", "/one has the file, 5 bytes."},
		{"save Bob 1 " + dir + "/one", "file exists"},
		{"save Bob 1.2 " + dir, "/profile has the file, 6 bytes."},
		{"save Bob 1.3 " + dir, "has no name that could be used"},
		{"save Bob 1.4 " + dir + "/four", "The message has no such file."},
		{"save Bob 1.0 " + dir + "/four", "Say which file"},
		{"save Bob x " + dir + "/four", "Say with whom and which message"},
		{"save Bob 1", "Say where to"},
		{"picture", "You have no picture."},
		{"picture " + source, "You have a picture."},
		{"picture -", "You have no picture."},
		{"picture " + dir, "is not a file."},
		{"save Bob picture " + dir + "/face", "There is no picture."},
	} {
		if got := strings.ReplaceAll(u.says(&at, c.line), "\n", ""); !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.line, got, c.want)
		}
	}
	for name, want := range map[string]string{"one": "first", "profile": "second"} {
		if got, err := os.ReadFile(filepath.Join(dir, name)); err != nil || string(got) != want {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
	if _, err := os.Stat(filepath.Join(dir, "four")); err == nil {
		t.Error("a file that is not there was made")
	}
	s.Look(func() {
		if got := s.Files[devicetest.File{With: devicetest.Bob, ID: 2}]; !bytes.Equal(got, content) {
			t.Errorf("sent %d bytes", len(got))
		}
	})
	s.Change(func() { s.Pictures = map[string][]byte{devicetest.Bob: []byte("jpeg")} })
	if got := u.says(&at, "save Bob picture "+dir+"/face"); !strings.Contains(got, "has the picture, 4 bytes.") {
		t.Errorf("%q", got)
	}
	if got, err := os.ReadFile(filepath.Join(dir, "face")); err != nil || string(got) != "jpeg" {
		t.Errorf("%q, %v", got, err)
	}
	u.leave()
}

func TestAConsoleOnTheDeviceTouchesNoFiles(t *testing.T) {
	s := devicetest.Start(t)
	s.Open()
	u := sit(t, s, nil)
	at := u.waitPrompt(0)
	for _, line := range []string{"sendfile Bob /etc/passwd", "sendvoice Bob /tmp/x.mp3", "save Bob 1 /tmp/x", "help save", "picture /etc/passwd"} {
		if got := u.says(&at, line); !strings.Contains(got, "There is no command") {
			t.Errorf("%s: %q", line, got)
		}
	}
	u.leave()
}

func TestAFileThatTakesAWhileShowsHowFarItIs(t *testing.T) {
	s := devicetest.Start(t)
	s.Open()
	s.Change(func() { s.Contacts = []*api.Contact{{SessionId: devicetest.Bob, Name: "Bob"}} })
	var now time.Duration
	cfg := Config{Now: func() time.Time { return time.Unix(0, 0).Add(now) }}
	cfg.Messenger, _, _ = s.Clients()
	c := New(cfg)
	var out bytes.Buffer
	c.term = newTerminal(&out, false)
	for _, step := range []struct {
		at         time.Duration
		id         uint64
		upload     bool
		done, size uint64
		want       string
	}{
		{0, 3, false, 0, 1000, ""},
		{4 * time.Second, 3, false, 300, 1000, ""},
		{5 * time.Second, 3, false, 350, 1000, "* fetching the file of #3 with Bob: 35 %"},
		{6 * time.Second, 3, true, 400, 1000, ""}, // another way, another file
		{6 * time.Second, 3, false, 400, 1000, ""},
		{10 * time.Second, 3, false, 900, 1000, "* fetching the file of #3 with Bob: 90 %"},
		{11 * time.Second, 3, true, 500, 1000, "* sending the file of #3 with Bob: 50 %"},
		{20 * time.Second, 3, false, 1000, 1000, ""}, // the command says it
		{20 * time.Second, 3, false, 0, 1000, ""},    // once more, from the beginning
		{30 * time.Second, 4, false, 7, 0, ""},       // nobody knows the size
		{40 * time.Second, 4, false, 8, 0, ""},
	} {
		now = step.at
		out.Reset()
		c.progress(t.Context(), &api.Transfer{SessionId: devicetest.Bob, Id: step.id, Upload: step.upload, Done: step.done, Total: step.size})
		if got := strings.TrimSpace(out.String()); got != step.want {
			t.Errorf("after %v: %q, want %q", step.at, got, step.want)
		}
	}
	for id := range uint64(10 * maxMoving) { // of which no end is ever heard
		c.progress(t.Context(), &api.Transfer{SessionId: devicetest.Bob, Id: id, Total: 10})
	}
	if n := len(c.moving); n > maxMoving {
		t.Errorf("%d files are followed", n)
	}
}
