package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/BurntSushi/toml"
	"go.yaml.in/yaml/v3"

	"8space.app/stripe-sidecar/internal/sandbox/fakestripe"
	"8space.app/stripe-sidecar/internal/sandbox/sandboxtest"
)

const deployReadme = "cmd/stripe-sidecar/deploy/README.md"

// recipe is what a file in deploy says about the service.
type recipe struct {
	env     map[string]string
	secrets []string // variables whose values the platform keeps
	files   []string // that the platform mounts
	probes  []probe
	grace   time.Duration // from SIGTERM to SIGKILL
	memory  string
}

type probe struct{ port, path string }

// TestRecipes: the service starts with what each recipe says, every variable is one of
// its own, every secret is there, it answers where it is probed, is given the time that
// it takes to stop, and knows how much memory it has.
func TestRecipes(t *testing.T) {
	for name, read := range map[string]func(*testing.T) recipe{
		"compose.yaml":           composeRecipe,
		"kubernetes.yaml":        kubernetesRecipe,
		"cloudrun.yaml":          cloudRunRecipe,
		"fly.toml":               flyRecipe,
		"stripe-sidecar.service": systemdRecipe,
	} {
		t.Run(name, func(t *testing.T) {
			r := read(t)
			env, ours := maps.Clone(r.env), map[string]bool{"GOMEMLIMIT": true}
			for _, field := range variables() {
				name := field.Tag.Get("envconfig")
				ours[name] = true
				secret := valid("STRIPE_WEBHOOK_SECRET", "whsec_recipe")[name]
				if !isSecret(field.Type) || secret == "" {
					continue
				}
				ours[name+"_FILE"] = true
				path := r.env[name+"_FILE"]
				switch {
				case slices.Contains(r.secrets, name) && path == "":
					env[name] = secret
				case path == "" || !slices.Contains(r.files, path):
					t.Errorf("%s_FILE = %q, files mounted are %q; want it to be one of them", name, path, r.files)
					env[name] = secret
				default:
					env[name+"_FILE"] = filepath.Join(t.TempDir(), "secret")
					if err := os.WriteFile(env[name+"_FILE"], []byte(secret+"\n"), 0o600); err != nil {
						t.Fatal(err)
					}
				}
			}
			for name := range env {
				if !ours[name] {
					t.Errorf("%s is not a variable of the service", name)
				}
			}
			setenv(t, env)
			c, err := loadConfig()
			if err != nil {
				t.Fatal(err)
			}
			if most := stopDelay + c.ShutdownTimeout; r.grace <= most {
				t.Errorf("time between SIGTERM and SIGKILL = %s; want more than the %s that a stop may take", r.grace, most)
			}
			if limit, memory := inBytes(t, r.env["GOMEMLIMIT"]), inBytes(t, r.memory); limit*100 > memory*85 || limit*100 < memory*70 {
				t.Errorf("GOMEMLIMIT = %s of %s; want 70 to 85 %%", r.env["GOMEMLIMIT"], r.memory)
			}

			port, adminPort := strconv.Itoa(int(c.Port)), strconv.Itoa(int(c.AdminPort))
			env["HOST"], env["PORT"], env["SHUTDOWN_TIMEOUT"] = "127.0.0.1", "0", ""
			if c.AdminPort != 0 {
				env["ADMIN_PORT"] = freePort(t)
			}
			s := startService(t, env)
			for _, p := range r.probes {
				base := map[string]string{port: s.url, adminPort: s.adminURL}[p.port]
				if base == "" {
					t.Errorf("the probe %v asks at a port where nothing listens", p)
				} else if got := get(t, base+p.path); strings.Contains(got, "error") || got == "" {
					t.Errorf("GET %s at port %s = %q; want it answered", p.path, p.port, got)
				}
			}
		})
	}
}

// inBytes reads 64m, 64Mi, 64MiB, 64mb and 64M, which are all near enough.
func inBytes(t *testing.T, size string) int {
	t.Helper()
	m := regexp.MustCompile(`^(\d+)(?i:m|mi|mib|mb)$`).FindStringSubmatch(size)
	if m == nil {
		t.Fatalf("%q is not a number of megabytes", size)
	}
	n, _ := strconv.Atoi(m[1])
	return n << 20
}

func readRecipe(t *testing.T, name string) []byte {
	t.Helper()
	content, err := os.ReadFile(filepath.Join("deploy", name))
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// decodeYAML reads documents of YAML that have no field that into's elements have not.
func decodeYAML(t *testing.T, name string, into ...any) {
	t.Helper()
	d := yaml.NewDecoder(bytes.NewReader(readRecipe(t, name)))
	d.KnownFields(true)
	for i, v := range into {
		if err := d.Decode(v); err != nil {
			t.Fatalf("document %d of %s: %v", i+1, name, err)
		}
	}
	if err := d.Decode(new(any)); !errors.Is(err, io.EOF) {
		t.Fatalf("%s has more than %d documents", name, len(into))
	}
}

// strictly decodes YAML that has no field that into has not.
func strictly(t *testing.T, text string, into any) {
	t.Helper()
	d := yaml.NewDecoder(strings.NewReader(text))
	d.KnownFields(true)
	if err := d.Decode(into); err != nil {
		t.Fatalf("%s\n= %v; want no error", text, err)
	}
}

func duration(t *testing.T, s string) time.Duration {
	t.Helper()
	d, err := time.ParseDuration(s)
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// composeRecipe also compares the addresses with nginx's.
func composeRecipe(t *testing.T) recipe {
	type service struct {
		Image, Restart  string
		Ports, Volumes  []string
		DependsOn       []string `yaml:"depends_on"`
		StopGracePeriod string   `yaml:"stop_grace_period"`
		ReadOnly        bool     `yaml:"read_only"`
		CapDrop         []string `yaml:"cap_drop"`
		SecurityOpt     []string `yaml:"security_opt"`
		MemLimit        string   `yaml:"mem_limit"`
		CPUs            float64
		Environment     map[string]string
		Secrets         []string
		Networks        map[string]struct {
			Address string `yaml:"ipv4_address"`
		}
	}
	var file struct {
		Sidecar  service `yaml:"x-sidecar"`
		Services map[string]service
		Secrets  map[string]struct{ File string }
		Networks map[string]struct {
			IPAM struct {
				Config []struct{ Subnet netip.Prefix }
			}
		}
	}
	decodeYAML(t, "compose.yaml", &file)

	proxied := map[string]bool{}
	for _, address := range regexp.MustCompile(`172\.[0-9.]+:\d+`).FindAllString(string(readRecipe(t, "nginx.conf")), -1) {
		proxied[address] = true
	}
	listening := map[string]bool{}
	var sidecar service
	for name, s := range file.Services {
		address := s.Networks["web"].Address
		if ip, err := netip.ParseAddr(address); err != nil || !file.Networks["web"].IPAM.Config[0].Subnet.Contains(ip) {
			t.Errorf("address of %s = %q; want one in the network's subnet", name, address)
		}
		switch {
		case s.Image == file.Sidecar.Image:
			sidecar, listening[address+":8080"] = s, true
		case name == "site":
			listening[address+":3000"] = true
		case name == "nginx":
			if !slices.Equal(s.Volumes, []string{"./nginx.conf:/etc/nginx/conf.d/default.conf:ro"}) || len(s.DependsOn) != len(file.Services)-1 {
				t.Errorf("nginx mounts %q and depends on %q; want its recipe, and all the others", s.Volumes, s.DependsOn)
			}
		}
	}
	if !maps.Equal(proxied, listening) {
		t.Errorf("nginx asks %v; want the services' %v", proxied, listening)
	}
	r := recipe{env: sidecar.Environment, grace: duration(t, sidecar.StopGracePeriod), memory: sidecar.MemLimit}
	for _, name := range sidecar.Secrets {
		if file.Secrets[name].File == "" {
			t.Errorf("secret %s has no file", name)
		}
		r.files = append(r.files, "/run/secrets/"+name)
	}
	return r
}

// envVar is a variable in a container's list.
type envVar struct {
	Name, Value string
	ValueFrom   struct {
		SecretKeyRef struct{ Name, Key string } `yaml:"secretKeyRef"`
	} `yaml:"valueFrom"`
}

type httpProbe struct {
	HTTPGet          struct{ Path, Port string } `yaml:"httpGet"`
	PeriodSeconds    int                         `yaml:"periodSeconds"`
	TimeoutSeconds   int                         `yaml:"timeoutSeconds"`
	FailureThreshold int                         `yaml:"failureThreshold"`
}

type resources struct {
	Requests, Limits struct{ CPU, Memory string }
}

// kubernetesRecipe also checks what the objects say of each other. The types are as much
// of Kubernetes' own as the recipe needs.
func kubernetesRecipe(t *testing.T) recipe {
	type selector struct {
		MatchLabels map[string]string `yaml:"matchLabels"`
	}
	type head struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string
		Metadata   struct {
			Name                string
			Labels, Annotations map[string]string
		}
	}
	var deployment struct {
		head `yaml:",inline"`
		Spec struct {
			Replicas int
			Selector selector
			Strategy struct {
				RollingUpdate struct {
					MaxUnavailable int `yaml:"maxUnavailable"`
					MaxSurge       int `yaml:"maxSurge"`
				} `yaml:"rollingUpdate"`
			}
			Template struct {
				Metadata struct{ Labels, Annotations map[string]string }
				Spec     struct {
					EnableServiceLinks            *bool `yaml:"enableServiceLinks"`
					AutomountServiceAccountToken  *bool `yaml:"automountServiceAccountToken"`
					TerminationGracePeriodSeconds int   `yaml:"terminationGracePeriodSeconds"`
					SecurityContext               struct {
						RunAsNonRoot   bool                  `yaml:"runAsNonRoot"`
						RunAsUser      int                   `yaml:"runAsUser"`
						RunAsGroup     int                   `yaml:"runAsGroup"`
						FSGroup        int                   `yaml:"fsGroup"`
						SeccompProfile struct{ Type string } `yaml:"seccompProfile"`
					} `yaml:"securityContext"`
					TopologySpreadConstraints []struct {
						MaxSkew           int      `yaml:"maxSkew"`
						TopologyKey       string   `yaml:"topologyKey"`
						WhenUnsatisfiable string   `yaml:"whenUnsatisfiable"`
						LabelSelector     selector `yaml:"labelSelector"`
					} `yaml:"topologySpreadConstraints"`
					Containers []struct {
						Name, Image string
						Ports       []struct {
							Name          string
							ContainerPort string `yaml:"containerPort"`
						}
						Env            []envVar
						Resources      resources
						ReadinessProbe httpProbe `yaml:"readinessProbe"`
						LivenessProbe  httpProbe `yaml:"livenessProbe"`
						Lifecycle      struct {
							PreStop struct{ Sleep struct{ Seconds int } } `yaml:"preStop"`
						}
						SecurityContext struct {
							AllowPrivilegeEscalation *bool                   `yaml:"allowPrivilegeEscalation"`
							ReadOnlyRootFilesystem   bool                    `yaml:"readOnlyRootFilesystem"`
							Capabilities             struct{ Drop []string } `yaml:"capabilities"`
						} `yaml:"securityContext"`
						VolumeMounts []struct {
							Name      string
							MountPath string `yaml:"mountPath"`
							ReadOnly  bool   `yaml:"readOnly"`
						} `yaml:"volumeMounts"`
					}
					Volumes []struct {
						Name   string
						Secret struct {
							SecretName  string `yaml:"secretName"`
							DefaultMode int    `yaml:"defaultMode"`
						}
					}
				}
			}
		}
	}
	var service struct {
		head `yaml:",inline"`
		Spec struct {
			Selector map[string]string
			Ports    []struct {
				Name, Port string
				TargetPort string `yaml:"targetPort"`
			}
		}
	}
	var budget struct {
		head `yaml:",inline"`
		Spec struct {
			MaxUnavailable int `yaml:"maxUnavailable"`
			Selector       selector
		}
	}
	type ingressObject struct {
		head `yaml:",inline"`
		Spec struct {
			ClassName string `yaml:"ingressClassName"`
			TLS       []struct {
				Hosts      []string
				SecretName string `yaml:"secretName"`
			}
			Rules []struct {
				Host string
				HTTP struct {
					Paths []struct {
						Path     string
						PathType string `yaml:"pathType"`
						Backend  struct {
							Service struct {
								Name string
								Port struct{ Name string }
							}
						}
					}
				}
			}
		}
	}
	var ingress, added ingressObject
	decodeYAML(t, "kubernetes.yaml", &deployment, &service, &budget, &ingress)

	pod := deployment.Spec.Template.Spec
	container := pod.Containers[0]
	labels := deployment.Spec.Template.Metadata.Labels
	for what, selects := range map[string]map[string]string{"Deployment": deployment.Spec.Selector.MatchLabels, "Service": service.Spec.Selector,
		"PodDisruptionBudget": budget.Spec.Selector.MatchLabels, "spread": pod.TopologySpreadConstraints[0].LabelSelector.MatchLabels} {
		if !maps.Equal(selects, labels) {
			t.Errorf("%s selects %v; want the Pods, %v", what, selects, labels)
		}
	}
	if pod.EnableServiceLinks == nil || *pod.EnableServiceLinks {
		t.Error("enableServiceLinks is not false: each of the variables that come of it would draw a warning")
	}
	path := ingress.Spec.Rules[0].HTTP.Paths[0]
	if path.Path != "/api/stripe/" || path.Backend.Service.Name != service.Metadata.Name || path.Backend.Service.Port.Name != service.Spec.Ports[0].Name {
		t.Errorf("Ingress = %+v; want /api/stripe/ at the Service", path)
	}

	// What the page adds for ingress-nginx has the values of nginx.conf.
	var controller struct{ Data map[string]string }
	strictly(t, snippet(t, "yaml", "ingressClassName"), &added)
	strictly(t, snippet(t, "yaml", "large-client"), &controller)
	if tls := added.Spec.TLS; len(tls) != 1 || !slices.Equal(tls[0].Hosts, []string{ingress.Spec.Rules[0].Host}) || tls[0].SecretName == "" {
		t.Errorf("tls = %+v; want the Ingress' host and a secret", tls)
	}
	directives := map[string]string{}
	for name, value := range controller.Data {
		directives[name] = value
	}
	for name, value := range added.Metadata.Annotations {
		directives[strings.TrimPrefix(name, "nginx.ingress.kubernetes.io/")] = value
	}
	nginx := string(readRecipe(t, "nginx.conf"))
	for name, value := range directives {
		directive := strings.ReplaceAll(name, "-", "_") + " " + value + ";"
		if name == "upstream-keepalive-timeout" {
			directive = "keepalive_timeout " + value + "s;"
		}
		if !strings.Contains(nginx, directive) {
			t.Errorf("ingress-nginx has %s; want what nginx.conf says, which is not %q", name, directive)
		}
	}
	if len(directives) != 4 {
		t.Errorf("settings of ingress-nginx = %v; want 4", directives)
	}
	if build := snippet(t, "sh", "docker push"); strings.Count(build, " "+container.Image) != 2 {
		t.Errorf("the image that is built and pushed = %q; want the Deployment's, %s", build, container.Image)
	}
	for line := range strings.Lines(snippet(t, "sh", "kubectl exec")) {
		command, ok := strings.CutPrefix(strings.TrimSpace(line), "kubectl exec deploy/"+deployment.Metadata.Name+" -- /stripe-sidecar ")
		_, _, env := surroundings(t, fakestripe.Options{})
		_, stderr, err := shell(t, env, "stripe-sidecar "+command)
		if !ok || err != nil || strings.Contains(stderr, "Usage") {
			t.Errorf("%q = %v, %s; want a command of the program in the Deployment", line, err, stderr)
		}
	}

	r := recipe{env: map[string]string{}, memory: container.Resources.Limits.Memory,
		grace: time.Duration(pod.TerminationGracePeriodSeconds-container.Lifecycle.PreStop.Sleep.Seconds) * time.Second}
	for _, v := range container.Env {
		r.env[v.Name] = v.Value
	}
	ports := map[string]string{}
	for _, p := range container.Ports {
		ports[p.Name] = p.ContainerPort
	}
	if ports[service.Spec.Ports[0].TargetPort] != r.env["PORT"] || deployment.Spec.Template.Metadata.Annotations["prometheus.io/port"] != r.env["ADMIN_PORT"] {
		t.Errorf("ports = %v; want the Service to ask at PORT and Prometheus at ADMIN_PORT", ports)
	}
	for _, p := range []httpProbe{container.ReadinessProbe, container.LivenessProbe} {
		r.probes = append(r.probes, probe{ports[p.HTTPGet.Port], p.HTTPGet.Path})
	}
	r.probes = append(r.probes, probe{ports["admin"], "/metrics"})
	create := snippet(t, "sh", "kubectl create secret generic "+pod.Volumes[0].Secret.SecretName)
	for _, key := range regexp.MustCompile(`--from-file=(\w+)`).FindAllStringSubmatch(create, -1) {
		r.files = append(r.files, container.VolumeMounts[0].MountPath+"/"+key[1])
	}
	return r
}

// TestRecipesWebhook: the webhook's secret comes into its file, by the key in another.
func TestRecipesWebhook(t *testing.T) {
	_, _, env := surroundings(t, fakestripe.Options{})
	for _, s := range sandboxtest.Snippets(t, deployReadme) {
		dir := t.TempDir()
		write := os.WriteFile(filepath.Join(dir, "stripe_secret_key"), []byte(env["STRIPE_SECRET_KEY"]+"\n"), 0o600)
		_, stderr, err := shell(t, map[string]string{"STRIPE_API_BASE": env["STRIPE_API_BASE"]}, "cd "+dir+"\n"+s.Text)
		secret, read := os.ReadFile(filepath.Join(dir, "stripe_webhook_secret"))
		if err := errors.Join(write, err, read); err != nil || !regexp.MustCompile(`^whsec_\w+\n$`).Match(secret) {
			t.Errorf("stripe_webhook_secret = %q, %v, %s; want the secret alone", secret, err, stderr)
		}
	}
}

func cloudRunRecipe(t *testing.T) recipe {
	var file struct {
		APIVersion string `yaml:"apiVersion"`
		Kind       string
		Metadata   struct{ Name string }
		Spec       struct {
			Template struct {
				Metadata struct{ Annotations map[string]string }
				Spec     struct {
					ContainerConcurrency int `yaml:"containerConcurrency"`
					TimeoutSeconds       int `yaml:"timeoutSeconds"`
					Containers           []struct {
						Image string
						Ports []struct {
							ContainerPort string `yaml:"containerPort"`
						}
						Env           []envVar
						Resources     resources
						StartupProbe  httpProbe `yaml:"startupProbe"`
						LivenessProbe httpProbe `yaml:"livenessProbe"`
					}
				}
			}
		}
	}
	decodeYAML(t, "cloudrun.yaml", &file)
	container := file.Spec.Template.Spec.Containers[0]
	// https://cloud.google.com/run/docs/container-contract#instance-shutdown
	r := recipe{env: map[string]string{}, memory: container.Resources.Limits.Memory, grace: 10 * time.Second}
	for _, v := range container.Env {
		if v.ValueFrom.SecretKeyRef.Name != "" {
			r.secrets = append(r.secrets, v.Name)
		} else {
			r.env[v.Name] = v.Value
		}
	}
	if _, ok := r.env["PORT"]; ok {
		t.Error("PORT is set; want it left to Cloud Run, which refuses it")
	}
	r.env["PORT"] = container.Ports[0].ContainerPort
	for _, p := range []httpProbe{container.StartupProbe, container.LivenessProbe} {
		r.probes = append(r.probes, probe{p.HTTPGet.Port, p.HTTPGet.Path})
	}
	return r
}

func flyRecipe(t *testing.T) recipe {
	type check struct {
		Type, Method, Path, Interval, Timeout string
		Port                                  int
		GracePeriod                           string `toml:"grace_period"`
	}
	var file struct {
		App           string
		PrimaryRegion string `toml:"primary_region"`
		KillSignal    string `toml:"kill_signal"`
		KillTimeout   string `toml:"kill_timeout"`
		Env           map[string]string
		HTTPService   struct {
			InternalPort       int    `toml:"internal_port"`
			ForceHTTPS         bool   `toml:"force_https"`
			AutoStopMachines   string `toml:"auto_stop_machines"`
			MinMachinesRunning int    `toml:"min_machines_running"`
			Concurrency        struct {
				Type      string
				SoftLimit int `toml:"soft_limit"`
				HardLimit int `toml:"hard_limit"`
			}
		} `toml:"http_service"`
		Checks  map[string]check
		Metrics struct {
			Port int
			Path string
		}
		Deploy struct {
			Strategy       string
			MaxUnavailable int `toml:"max_unavailable"`
		}
		VM []struct{ Size, Memory string }
	}
	known, err := toml.Decode(string(readRecipe(t, "fly.toml")), &file)
	if err != nil || len(known.Undecoded()) > 0 {
		t.Fatalf("fly.toml = %v, unknown %v; want neither", err, known.Undecoded())
	}
	if got := strconv.Itoa(file.HTTPService.InternalPort); got != file.Env["PORT"] || file.KillSignal != "SIGTERM" {
		t.Errorf("internal_port = %s, kill_signal = %s; want PORT, %s, and SIGTERM", got, file.KillSignal, file.Env["PORT"])
	}
	r := recipe{env: file.Env, grace: duration(t, file.KillTimeout), memory: file.VM[0].Memory,
		probes: []probe{{strconv.Itoa(file.Metrics.Port), file.Metrics.Path}}}
	for _, c := range file.Checks {
		r.probes = append(r.probes, probe{strconv.Itoa(c.Port), c.Path})
	}
	for _, name := range regexp.MustCompile(`([A-Z_]+)=`).FindAllStringSubmatch(snippet(t, "sh", "fly secrets set"), -1) {
		r.secrets = append(r.secrets, name[1])
	}
	return r
}

// systemdRecipe takes the unit's EnvironmentFile from README.md.
func systemdRecipe(t *testing.T) recipe {
	r := recipe{env: map[string]string{}}
	for line := range strings.Lines(string(readRecipe(t, "stripe-sidecar.service"))) {
		setting, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch setting {
		case "Environment":
			name, value, _ := strings.Cut(value, "=")
			r.env[name] = value
		case "LoadCredential":
			credential, _, _ := strings.Cut(value, ":")
			r.files = append(r.files, "%d/"+credential)
		case "TimeoutStopSec":
			r.grace = duration(t, value)
		case "MemoryMax":
			r.memory = value
		}
	}
	file := filepath.Join(t.TempDir(), "env")
	if err := os.WriteFile(file, []byte(snippet(t, "ini", "SUPABASE_URL=")), 0o600); err != nil {
		t.Fatal(err)
	}
	setenv(t, nil)
	if err := readEnvFile(file); err != nil {
		t.Fatal(err)
	}
	for _, field := range variables() {
		if name := field.Tag.Get("envconfig"); os.Getenv(name) != "" {
			r.env[name] = os.Getenv(name)
		}
	}
	return r
}

// snippet is the block of README.md in a language that holds some text.
func snippet(t *testing.T, language, text string) string {
	t.Helper()
	for _, s := range sandboxtest.AllSnippets(t) {
		if s.File == deployReadme && s.Language == language && strings.Contains(s.Text, text) {
			return s.Text
		}
	}
	t.Fatalf("%s has no block of %s with %q", deployReadme, language, text)
	return ""
}

// TestSystemdUnit: systemd understands the unit and finds little to complain of.
func TestSystemdUnit(t *testing.T) {
	t.Parallel()
	analyze := sandboxtest.Program(t, "systemd-analyze", "systemd")
	unit := filepath.Join(t.TempDir(), "stripe-sidecar.service")
	program, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	text := strings.Replace(string(readRecipe(t, "stripe-sidecar.service")), "/usr/local/bin/stripe-sidecar", program, 1)
	if err := os.WriteFile(unit, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(analyze, "verify", "--man=no", unit).CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("stripe-sidecar.service")) {
		t.Errorf("systemd-analyze verify = %v, %s; want nothing", err, out)
	}
	// In tenths: 96 for a service with no protection at all.
	out, err = exec.Command(analyze, "security", "--offline=true", "--threshold=15", unit).CombinedOutput()
	if err != nil {
		t.Errorf("systemd-analyze security = %v, %s; want an exposure of 1.5 at most", err, out)
	}
}

// TestRewrites: a site on Vercel sends what is below /api/stripe/ to the service's
// public address, one of Next.js beside the service to its own machine, and nothing else.
func TestRewrites(t *testing.T) {
	type rewrite struct{ Source, Destination string }
	var vercel struct {
		Schema   string `json:"$schema"`
		Rewrites []rewrite
	}
	d := json.NewDecoder(bytes.NewReader(readRecipe(t, "vercel.json")))
	d.DisallowUnknownFields()
	if err := d.Decode(&vercel); err != nil {
		t.Fatal(err)
	}

	node := sandboxtest.Program(t, "node", "nodejs")
	config := filepath.Join(t.TempDir(), "next.config.mjs")
	if err := os.WriteFile(config, []byte(sandboxtest.Snippets(t, deployReadme)[0].Text), 0o600); err != nil {
		t.Fatal(err)
	}
	out, err := exec.Command(node, "--input-type=module", "-e",
		`const config = await import(process.argv[1]); console.log(JSON.stringify(await config.default.rewrites()))`, config).Output()
	var next []rewrite
	if err := errors.Join(err, json.Unmarshal(out, &next)); err != nil {
		t.Fatalf("next.config.mjs = %s, %v; want its rewrites", out, err)
	}

	for name, test := range map[string]struct {
		rewrites []rewrite
		origin   string
	}{"vercel.json": {vercel.Rewrites, "https://billing.example.com"}, "next.config.mjs": {next, "http://127.0.0.1:8080"}} {
		want := rewrite{"/api/stripe/:path*", test.origin + "/api/stripe/:path*"}
		if len(test.rewrites) != 1 || test.rewrites[0] != want {
			t.Errorf("rewrites of %s = %v; want %v", name, test.rewrites, want)
		}
	}
}
