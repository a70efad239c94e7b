package main

import (
	"io"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"
)

// TestAlerts: every metric that a rule names is there, with the labels that it names,
// and Prometheus takes the file.
func TestAlerts(t *testing.T) {
	content, err := os.ReadFile("alerts.yml")
	if err != nil {
		t.Fatal(err)
	}
	var file struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	if err := yaml.Unmarshal(content, &file); err != nil || len(file.Groups) != 1 || len(file.Groups[0].Rules) != 5 {
		t.Fatalf("alerts.yml = %+v, %v; want one group of five rules", file, err)
	}
	settleSoon(t)
	w := startWired(t, "STRIPE_WEBHOOK_SECRET", "whsec_wired")
	w.post(t, "create-checkout", oneTime, w.bearer()...)
	w.post(t, "create-portal", `{"returnUrl":"https://a.example"}`, w.bearer()...)
	w.deliver(t, `{"type":"invoice.paid","livemode":false,"data":{"object":{}}}`)
	until(t, func() string { return metric(t, w.url, "stripe_sidecar_customers_left") }, "0")
	resp, err := http.Get(w.url + "/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	metrics, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	selector := regexp.MustCompile(`(stripe_sidecar_\w+)(?:\{([^}]*)\})?`)
	matcher := regexp.MustCompile(`(\w+)=~?"([^"]*)"`)
	for _, rule := range file.Groups[0].Rules {
		found := selector.FindAllStringSubmatch(rule.Expr, -1)
		if len(found) == 0 {
			t.Errorf("%s names no metric: %s", rule.Alert, rule.Expr)
		}
		for _, s := range found {
			for _, m := range append(matcher.FindAllStringSubmatch(s[2], -1), nil) {
				label := ""
				if m != nil && m[1] != "outcome" { // which is brought about by what fails
					label = m[1] + `="(` + m[2] + `)"`
				} else if m != nil {
					label = m[1] + `="`
				}
				if !regexp.MustCompile(`(?m)^` + s[1] + `[ {].*` + label).Match(metrics) {
					t.Errorf("%s: /metrics has no %s with %q; want it", rule.Alert, s[1], label)
				}
			}
		}
	}
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		t.Log("install promtool (Debian: prometheus) to have the rules checked by it too")
		return
	}
	if output, err := exec.Command(promtool, "check", "rules", "alerts.yml").CombinedOutput(); err != nil || !strings.Contains(string(output), "5 rules found") {
		t.Errorf("promtool check rules = %v, %s; want 5 rules found", err, output)
	}
}
