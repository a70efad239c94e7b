package sandboxtest

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// Snippet is a fenced block of a Markdown file. The comment on the line before it
// says what holds it true: <!-- test: TestName -->, which takes it from the file
// with [Snippets], or <!-- not run: why -->.
type Snippet struct {
	File     string // relative to the repository's root
	Line     int    // of the fence
	Language string // behind the fence, "" for none
	Test     string // the test's name; "" for none
	NotRun   string // why no test runs it; "" for none
	Text     string // what stands between the fences
}

var (
	fence  = regexp.MustCompile("^ *```(.*)$")
	marked = regexp.MustCompile(`^ *<!-- (test|not run): (.+?) -->$`)
)

// Snippets returns the fenced blocks of a Markdown file, named relative to the
// repository's root, that this test, t.Name() up to a slash, is said to run. It is
// an error when there are none.
func Snippets(t testing.TB, file string) []Snippet {
	t.Helper()
	test, _, _ := strings.Cut(t.Name(), "/")
	var mine []Snippet
	for _, s := range read(t, file) {
		if s.Test == test {
			mine = append(mine, s)
		}
	}
	if len(mine) == 0 {
		t.Fatalf("snippets of %s = none with <!-- test: %s -->; want one at least", file, test)
	}
	return mine
}

// AllSnippets returns every fenced block of every Markdown file in the repository.
func AllSnippets(t testing.TB) []Snippet {
	t.Helper()
	root := Root(t)
	var all []Snippet
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != root && (strings.HasPrefix(d.Name(), ".") || d.Name() == "node_modules") {
			return filepath.SkipDir
		}
		if filepath.Ext(path) == ".md" {
			file, _ := filepath.Rel(root, path)
			all = append(all, read(t, file)...)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// Root returns the folder of go.mod, at or above that of the test.
func Root(t testing.TB) string {
	t.Helper()
	dir, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir
		}
		if dir == filepath.Dir(dir) {
			t.Fatal("no go.mod above the test")
		}
		dir = filepath.Dir(dir)
	}
}

func read(t testing.TB, file string) []Snippet {
	t.Helper()
	content, err := os.ReadFile(filepath.Join(Root(t), file))
	if err != nil {
		t.Fatal(err)
	}
	var all []Snippet
	inside, before := false, ""
	for i, line := range strings.Split(string(content), "\n") {
		opens := fence.FindStringSubmatch(line)
		switch {
		case inside && opens == nil:
			all[len(all)-1].Text += line + "\n"
		case inside:
			inside = false
		case opens != nil:
			s := Snippet{File: file, Line: i + 1, Language: opens[1]}
			if m := marked.FindStringSubmatch(before); m != nil && m[1] == "test" {
				s.Test = m[2]
			} else if m != nil {
				s.NotRun = m[2]
			}
			all, inside = append(all, s), true
		}
		before = line
	}
	return all
}
