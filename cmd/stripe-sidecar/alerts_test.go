package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"8space.app/stripe-sidecar/internal/billing"
	"8space.app/stripe-sidecar/internal/sandbox/sandboxtest"
)

// rule is an expression that Prometheus evaluates, for an alert or a panel.
type rule struct {
	Alert  string `yaml:"alert,omitempty"`
	Record string `yaml:"record,omitempty"`
	Expr   string
}

type rules struct {
	Groups []group
}

type group struct {
	Name  string
	Rules []rule
}

// panels are the expressions of dashboard.json, with its variables filled in.
func panels(t *testing.T, dashboard []byte) (panels []rule) {
	t.Helper()
	var file struct {
		Panels []struct {
			Title, Type string
			Targets     []struct{ Expr string }
		}
	}
	if err := json.Unmarshal(dashboard, &file); err != nil {
		t.Fatal(err)
	}
	for _, panel := range file.Panels {
		if panel.Type != "row" && len(panel.Targets) == 0 {
			t.Errorf("the panel %q asks for nothing", panel.Title)
		}
		for _, target := range panel.Targets {
			expr := strings.NewReplacer("$__rate_interval", "1m", "$job", ".*").Replace(target.Expr)
			panels = append(panels, rule{Record: fmt.Sprintf("panel:%d", len(panels)), Expr: expr})
		}
	}
	return panels
}

// TestAlertsAndDashboard: every metric that a rule or a panel names is there, with
// the labels that it names, Prometheus takes them all, and the metrics, and each
// alert rings when it should.
func TestAlertsAndDashboard(t *testing.T) {
	alerts, err := os.ReadFile("alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	dashboard, err := os.ReadFile("dashboard.json")
	if err != nil {
		t.Fatal(err)
	}
	var all rules
	if err := yaml.Unmarshal(alerts, &all); err != nil || len(all.Groups) != 1 || len(all.Groups[0].Rules) != 5 {
		t.Fatalf("alerts.yml = %+v, %v; want one group of five rules", all, err)
	}
	for _, name := range regexp.MustCompile(`StripeSidecar\w+`).FindAllString(string(dashboard), -1) {
		if !strings.Contains(string(alerts), "alert: "+name+"\n") {
			t.Errorf("dashboard.json names the alert %s; want one of alerts.yml", name)
		}
	}
	all.Groups = append(all.Groups, group{"dashboard", panels(t, dashboard)})

	settleSoon(t)
	w := startWired(t, "STRIPE_WEBHOOK_SECRET", "whsec_wired")
	w.post(t, "create-checkout", oneTime, w.bearer()...)
	w.post(t, "create-portal", `{"returnUrl":"https://a.example"}`, w.bearer()...)
	w.deliver(t, `{"type":"invoice.paid","livemode":false,"data":{"object":{}}}`)
	until(t, func() string { return metric(t, w.url, "stripe_sidecar_customers_left") }, "0")
	metrics := []byte(get(t, w.url+"/metrics"))
	for _, eventType := range billing.HandledEvents() {
		for _, outcome := range []string{"stored", "failed"} {
			if line := fmt.Sprintf("stripe_sidecar_events_total{outcome=%q,type=%q} ", outcome, eventType); !bytes.Contains(metrics, []byte(line)) {
				t.Errorf("/metrics lacks %s; want it from the start, so that its first failure is a rise", line)
			}
		}
	}
	selector := regexp.MustCompile(`\b((?:stripe_sidecar|go|process)_\w+)(?:\{([^}]*)\})?`)
	matcher := regexp.MustCompile(`(\w+)=~?"([^"]*)"`)
	for _, group := range all.Groups {
		for _, rule := range group.Rules {
			found := selector.FindAllStringSubmatch(rule.Expr, -1)
			if len(found) == 0 {
				t.Errorf("%s names no metric: %s", group.Name, rule.Expr)
			}
			for _, s := range found {
				for _, m := range append(matcher.FindAllStringSubmatch(s[2], -1), nil) {
					label := ""
					switch {
					case m == nil || m[1] == "job": // which Prometheus adds
					case m[1] == "outcome" || m[1] == "status": // brought about by what fails
						label = m[1] + `="`
					default:
						label = m[1] + `="(` + m[2] + `)"`
					}
					if !regexp.MustCompile(`(?m)^` + s[1] + `[ {].*` + label).Match(metrics) {
						t.Errorf("%s: /metrics has no %s with %q, which %s asks for; want it", group.Name, s[1], label, rule.Expr)
					}
				}
			}
		}
	}

	t.Run("promtool", func(t *testing.T) {
		promtool := sandboxtest.Program(t, "promtool", "prometheus")
		file := filepath.Join(t.TempDir(), "rules.yml")
		content, err := yaml.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(file, content, 0o600); err != nil {
			t.Fatal(err)
		}
		checks := exec.Command(promtool, "check", "metrics")
		checks.Stdin = bytes.NewReader(metrics)
		for _, cmd := range []*exec.Cmd{checks, exec.Command(promtool, "check", "rules", file),
			exec.Command(promtool, "check", "rules", "alerts.yml"), exec.Command(promtool, "test", "rules", "testdata/alerts_test.yml")} {
			if output, err := cmd.CombinedOutput(); err != nil {
				t.Errorf("%s = %v, %s; want no complaint", cmd, err, output)
			}
		}
	})
}
