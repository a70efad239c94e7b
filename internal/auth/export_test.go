package auth

import "net/http"

// ReadCookies decodes the session of Cookie headers.
func ReadCookies(h http.Header, name string) (access, refresh string, bare, ok bool) {
	j, err := readCookies(h, name)
	if err != nil {
		return "", "", false, false
	}
	s, ok := j.session()
	return s.access, s.refresh, s.bare, ok
}

// WriteCookies writes a session as the answer to a request with these headers.
func WriteCookies(in http.Header, name string, sessionJSON []byte) http.Header {
	out := http.Header{}
	if j, err := readCookies(in, name); err == nil {
		j.write(out, sessionJSON)
	}
	return out
}
