package sandboxtest

import (
	"encoding/xml"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode"
)

// files returns the paths, relative to the repository's root, of its files with this
// ending.
func files(t *testing.T, ending string) []string {
	t.Helper()
	var found []string
	root := Root(t)
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if !d.IsDir() && strings.HasSuffix(path, ending) {
			name, err := filepath.Rel(root, path)
			found = append(found, filepath.ToSlash(name))
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func content(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(Root(t), name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

var (
	testFunction = regexp.MustCompile(`(?m)^func ((?:Test|Fuzz)\w+)\(`)
	testNamed    = regexp.MustCompile("`((?:Test|Fuzz)[A-Z]\\w*)`")
)

// TestDocs: every fenced block of every page is run by the test that it names, which
// reads it from that page, or says why it cannot be run; and every test that a page
// names is there.
func TestDocs(t *testing.T) {
	folders := map[string][]string{} // of the tests, by their names
	tests := map[string]string{}     // the text of the tests, by their folder
	for _, name := range files(t, "_test.go") {
		text, folder := content(t, name), path.Dir(name)
		tests[folder] += text
		for _, m := range testFunction.FindAllStringSubmatch(text, -1) {
			folders[m[1]] = append(folders[m[1]], folder)
		}
	}
	for _, s := range AllSnippets(t) {
		reads := func(folder string) bool {
			return strings.Contains(tests[folder], "sandboxtest.Snippets(") && strings.Contains(tests[folder], `"`+s.File+`"`)
		}
		switch {
		case s.Test == "" && len(strings.Fields(s.NotRun)) < 3:
			t.Errorf("%s:%d: the line before the block = no test and no reason; want <!-- test: TestName --> or <!-- not run: why -->", s.File, s.Line)
		case s.Test != "" && len(folders[s.Test]) == 0:
			t.Errorf("%s:%d: the block is held by %s, which there is not", s.File, s.Line, s.Test)
		case s.Test != "" && !slices.ContainsFunc(folders[s.Test], reads):
			t.Errorf("%s:%d: the block is held by %s, which does not read this page", s.File, s.Line, s.Test)
		}
	}
	for _, page := range files(t, ".md") {
		for _, m := range testNamed.FindAllStringSubmatch(content(t, page), -1) {
			if len(folders[m[1]]) == 0 {
				t.Errorf("%s names %s, which there is not", page, m[1])
			}
		}
	}
}

// prose returns the lines of a page, those of fenced blocks and of comments empty.
func prose(text string) []string {
	lines := strings.Split(text, "\n")
	inside := false
	for i, line := range lines {
		isFence := fence.MatchString(line)
		if inside || isFence || marked.MatchString(line) {
			lines[i] = ""
		}
		inside = inside != isFence
	}
	return lines
}

var (
	link     = regexp.MustCompile(`\]\(<?([^)\s>]+)>?\)|(?:src|srcset|href)="([^"]+)"`)
	code     = regexp.MustCompile("`[^`]*`")
	heading  = regexp.MustCompile(`^#{1,6} +(.*?) *#*$`)
	linked   = regexp.MustCompile(`\[([^\]]*)\]\([^)]*\)`)
	named    = regexp.MustCompile(`<a (?:id|name)="([^"]+)"`)
	listItem = regexp.MustCompile(`^ *([-*+]|\d+[.)]) `)
)

// anchors are the names that GitHub gives to the headings of a page.
func anchors(text string) map[string]bool {
	found := map[string]bool{}
	for _, line := range prose(text) {
		for _, m := range named.FindAllStringSubmatch(line, -1) {
			found[m[1]] = true
		}
		m := heading.FindStringSubmatch(line)
		if m == nil {
			continue
		}
		name := strings.Map(func(r rune) rune {
			switch {
			case r == ' ':
				return '-'
			case r == '-', r == '_', unicode.IsLetter(r), unicode.IsDigit(r):
				return unicode.ToLower(r)
			}
			return -1
		}, linked.ReplaceAllString(m[1], "$1"))
		for base, n := name, 1; found[name]; n++ {
			name = base + "-" + string(rune('0'+n))
		}
		found[name] = true
	}
	return found
}

// TestLinks: every link within the repository leads to a file that there is, and to a
// heading of it.
func TestLinks(t *testing.T) {
	for _, page := range files(t, ".md") {
		for i, line := range prose(content(t, page)) {
			for _, m := range link.FindAllStringSubmatch(code.ReplaceAllString(line, "`code`"), -1) {
				target := m[1] + m[2]
				if strings.Contains(target, "://") || strings.HasPrefix(target, "mailto:") {
					continue
				}
				file, anchor, _ := strings.Cut(target, "#")
				to := page
				if file != "" {
					to = path.Join(path.Dir(page), file)
				}
				info, err := os.Stat(filepath.Join(Root(t), to))
				switch {
				case err != nil || strings.HasPrefix(file, "/"):
					t.Errorf("%s:%d: the link %s leads to nothing", page, i+1, target)
				case anchor != "" && (info.IsDir() || path.Ext(to) == ".md" && !anchors(content(t, to))[anchor]):
					t.Errorf("%s:%d: the link %s leads to a heading that there is not", page, i+1, target)
				}
			}
		}
	}
}

// TestPages: what is code on a page is in a fence, where TestDocs finds it; and the
// first page is short.
func TestPages(t *testing.T) {
	for _, page := range files(t, ".md") {
		before, inList := "", false
		for i, line := range prose(content(t, page)) {
			switch {
			case strings.HasPrefix(line, "    ") && strings.TrimSpace(before) == "" && !inList:
				t.Errorf("%s:%d: %q is an indented block; want a fenced one", page, i+1, line)
			case listItem.MatchString(line):
				inList = true
			case line != "" && !strings.HasPrefix(line, " "):
				inList = false
			}
			before = line
		}
	}
	readme := content(t, "README.md")
	if n := len(strings.Fields(readme)); n > 1500 { // as wc -w counts
		t.Errorf("README.md has %d words; want at most 1500", n)
	}
	needs := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindStringSubmatch(content(t, "go.mod"))
	if needs == nil || !strings.Contains(readme, "Go "+needs[1]) {
		t.Errorf("README.md says nothing of the Go that go.mod needs, %q", needs)
	}
}

// TestPictures: what the pages show is small, drawings can be read, and also where it
// is dark.
func TestPictures(t *testing.T) {
	for _, name := range append(files(t, ".svg"), files(t, ".png")...) {
		text := content(t, name)
		if len(text) > 300<<10 {
			t.Errorf("%s has %d bytes; want at most 300 KiB", name, len(text))
		}
		if path.Ext(name) == ".svg" {
			for d := xml.NewDecoder(strings.NewReader(text)); ; {
				if _, err := d.Token(); err == io.EOF {
					break
				} else if err != nil {
					t.Fatalf("%s = %v; want XML", name, err)
				}
			}
			for _, want := range []string{"<title", "<desc", "prefers-color-scheme: dark"} {
				if !strings.Contains(text, want) {
					t.Errorf("%s has no %s", name, want)
				}
			}
		}
	}
}
