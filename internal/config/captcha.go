package config

import (
	"fmt"
	"maps"
	"net/url"
	"slices"
	"strings"

	"carrel/hub"
)

// Captcha is what visitors show beside their click.
type Captcha struct {
	Kind       string   `yaml:"kind" doc:"Empty: nothing. work: their browser computes for a moment, without any service (needs HTTPS, or a loopback address). siteverify: a captcha of a service that has this call."`
	Bits       int      `yaml:"bits" doc:"work: how much of it. 17 takes a browser a second or so; each one more doubles it."`
	Exempt     bool     `yaml:"exempt_tokens" doc:"Whether programs with the token of an account open notebooks without it. Other programs get work from hub/api/tmp/challenge, or send a service's answer."`
	Service    string   `yaml:"service" doc:"siteverify: hcaptcha, turnstile or recaptcha, which fills in what follows the secret; empty: another."`
	SiteKey    string   `yaml:"site_key" doc:"siteverify: the public key of this site."`
	Secret     string   `yaml:"secret" doc:"siteverify: the secret that goes with it." secret:"yes"`
	SecretFile string   `yaml:"secret_file" doc:"File that holds the secret."`
	VerifyURL  string   `yaml:"verify_url" doc:"Where an answer is checked, by HTTPS."`
	Script     string   `yaml:"script" doc:"The service's script, which the landing page loads."`
	Class      string   `yaml:"class" doc:"Class of the element that the script looks for."`
	Field      string   `yaml:"field" doc:"Field of the form that it puts the answer in."`
	Origins    []string `yaml:"origins" doc:"Origins that the landing page, and no other, may load from and talk to for it; beside the script's own."`
}

// services are the known ones.
var services = map[string]Captcha{
	"hcaptcha":  {VerifyURL: "https://api.hcaptcha.com/siteverify", Script: "https://js.hcaptcha.com/1/api.js", Class: "h-captcha", Field: "h-captcha-response", Origins: []string{"https://hcaptcha.com", "https://*.hcaptcha.com"}},
	"turnstile": {VerifyURL: "https://challenges.cloudflare.com/turnstile/v0/siteverify", Script: "https://challenges.cloudflare.com/turnstile/v0/api.js", Class: "cf-turnstile", Field: "cf-turnstile-response"},
	"recaptcha": {VerifyURL: "https://www.google.com/recaptcha/api/siteverify", Script: "https://www.google.com/recaptcha/api.js", Class: "g-recaptcha", Field: "g-recaptcha-response", Origins: []string{"https://www.google.com/recaptcha/", "https://www.gstatic.com/recaptcha/"}},
}

// Resolved is with what the service fills in.
func (c Captcha) Resolved() Captcha {
	s := services[c.Service]
	for _, f := range []struct{ own, known *string }{{&c.VerifyURL, &s.VerifyURL}, {&c.Script, &s.Script}, {&c.Class, &s.Class}, {&c.Field, &s.Field}} {
		if *f.own == "" {
			*f.own = *f.known
		}
	}
	c.Origins = slices.Concat(c.Origins, s.Origins)
	below := func(o string) bool { return strings.HasSuffix(o, "/") && strings.HasPrefix(c.Script, o) }
	if u, err := url.Parse(c.Script); err == nil && u.Host != "" && !slices.ContainsFunc(c.Origins, below) {
		c.Origins = append([]string{u.Scheme + "://" + u.Host}, c.Origins...)
	}
	return c
}

func (c Captcha) policy() hub.CaptchaPolicy {
	p := hub.CaptchaPolicy{Kind: hub.CaptchaKind(c.Kind), Bits: c.Bits, Exempt: c.Exempt}
	if p.Kind == hub.CaptchaSite {
		r := c.Resolved()
		p.Widget = hub.CaptchaWidget{Script: r.Script, Class: r.Class, SiteKey: r.SiteKey, Field: r.Field, Origins: r.Origins}
	}
	return p
}

func (c *Config) validateCaptcha(k *checks) {
	t := c.Tmp.Captcha
	const at = "tmp.captcha."
	k.that(slices.Contains([]string{"", string(hub.CaptchaWork), string(hub.CaptchaSite)}, t.Kind), at+"kind", "there is no such kind", "write work or siteverify, or leave it out")
	k.that(t.Bits >= 1 && t.Bits <= 28, at+"bits", "out of range", "give 1 to 28; each one more doubles the work")
	_, known := services[t.Service]
	k.that(t.Service == "" || known, at+"service", "this service is not known by name", "write one of "+strings.Join(slices.Sorted(maps.Keys(services)), ", ")+", or give verify_url, script, class and field")
	if t.Kind == string(hub.CaptchaWork) {
		u, err := url.Parse(c.PublicURL)
		k.that(err != nil || u.Scheme == "https" || loopback(u.Hostname()) || strings.HasSuffix(u.Hostname(), ".localhost"), at+"kind", "browsers compute hashes on pages of HTTPS only", "use HTTPS, or siteverify")
	}
	if t.Kind == string(hub.CaptchaSite) {
		c.validateSiteverify(k)
	}
}

func (c *Config) validateSiteverify(k *checks) {
	t, at := c.Tmp.Captcha, "tmp.captcha."
	r := t.Resolved()
	k.that(r.SiteKey != "", at+"site_key", "it is missing", "the service's administration page shows it")
	k.that(r.Secret != "", at+"secret", "it is missing", "name a file that holds it in secret_file")
	for field, address := range map[string]string{"verify_url": r.VerifyURL, "script": r.Script} {
		u, err := url.Parse(address)
		k.that(err == nil && u.Scheme == "https" && u.Host != "" && u.User == nil, at+field, "an HTTPS address is wanted", "name the service, or write what it documents")
	}
	for field, word := range map[string]string{"class": r.Class, "field": r.Field} {
		k.that(word != "" && strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_") == "", at+field, "a word of letters, digits, - and _ is wanted", "name the service, or write what it documents")
	}
	for i, o := range t.Origins {
		u, err := url.Parse(o)
		k.that(err == nil && u.Scheme == "https" && u.Host != "" && u.Scheme+"://"+u.Host == o && !strings.ContainsAny(o, " ;,'\""), fmt.Sprintf(at+"origins[%d]", i), "this is no origin", "write https://example.com, or https://*.example.com")
	}
}
