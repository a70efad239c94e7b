package upstream

import (
	"fmt"
	"io"
)

// Secret is a key, token or signing secret. It cannot be printed by fmt,
// encoding/json or log/slog, alone or in a struct: what asks a value how to
// print it is told, and what does not (%p, or reflection on an unexported
// field) sees a pointer. The zero Secret is none.
type Secret struct{ value *string }

// NewSecret returns the Secret that a string is; "" is none.
func NewSecret(value string) Secret {
	if value == "" {
		return Secret{}
	}
	return Secret{&value}
}

// Reveal returns the secret itself, "" when there is none.
func (s Secret) Reveal() string {
	if s.value == nil {
		return ""
	}
	return *s.value
}

const redacted = "[redacted]"

// Format serves every verb: for %d and the like, String would not be asked.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, redacted) }

// MarshalText is for encoding/json and log/slog.
func (s Secret) MarshalText() ([]byte, error) { return []byte(redacted), nil }
