package config

import (
	"fmt"
	"reflect"
	"slices"
	"strings"
)

// envPrefix begins the names of environment variables: CARREL_REDIS_URL is redis.url.
const envPrefix = "CARREL_"

// maxSecret is the largest secret that is read from a file, in bytes.
const maxSecret = 64 << 10

// envName is the variable that sets a field.
func envName(field string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(field, ".", "_"))
}

// settable tells whether the environment can set a field of this type: a single value, or a list of
// texts, comma-separated.
func settable(t reflect.Type) bool {
	return t.Kind() != reflect.Map && (t.Kind() != reflect.Slice || t.Elem().Kind() == reflect.String)
}

// readEnv sets single values and lists of texts from the environment. A name that is nearly one of
// ours is a slip; other programs may have names with our prefix.
func (l *loader) readEnv(cfg *Config, env []string) {
	fields, values := map[string]string{}, map[string]reflect.Value{}
	var names []string
	eachField(reflect.ValueOf(cfg).Elem(), "", func(field string, v reflect.Value, _ reflect.StructField) {
		name := envName(field)
		fields[name], values[name] = field, v
		names = append(names, name)
	})
	for _, kv := range env {
		name, value, _ := strings.Cut(kv, "=")
		if !strings.HasPrefix(name, envPrefix) {
			continue
		}
		v, ok := values[name]
		if !ok {
			l.unknownVariable(name, names)
			continue
		}
		l.vars[fields[name]] = name
		switch {
		case !settable(v.Type()):
			l.fault(0, fields[name], "this field can't be set by the environment", "set "+fields[name]+" in the file")
		case v.Kind() == reflect.Slice:
			v.Set(reflect.ValueOf(strings.FieldsFunc(value, func(r rune) bool { return r == ',' || r == ' ' })))
		default:
			if err := setScalar(v, value); err != nil {
				l.fault(0, fields[name], err.Error(), "")
			}
		}
	}
}

// unknownVariable tells of a slip of the pen.
func (l *loader) unknownVariable(name string, names []string) {
	const near = 3
	if i := slices.IndexFunc(names, func(n string) bool { return editDistance(name, n, near) < near }); i >= 0 {
		l.faults = append(l.faults, Fault{File: "environment", Field: name, Message: "there is no such setting", Remedy: "did you mean " + names[i] + "?"})
	}
}

// eachField visits every field that is no list of structs, by its path.
func eachField(v reflect.Value, field string, do func(string, reflect.Value, reflect.StructField)) {
	for i := range v.NumField() {
		f := v.Type().Field(i)
		path := join(field, f.Tag.Get("yaml"))
		if f.Type.Kind() == reflect.Struct {
			eachField(v.Field(i), path, do)
			continue
		}
		do(path, v.Field(i), f)
	}
}

// readSecrets reads the files that hold secrets.
func (l *loader) readSecrets(cfg *Config) {
	l.readSecret("redis.url", cfg.Redis.URLFile, &cfg.Redis.URL)
	l.readSecret("tmp.captcha.secret", cfg.Tmp.Captcha.SecretFile, &cfg.Tmp.Captcha.Secret)
	for i := range cfg.OIDC.Providers {
		p := &cfg.OIDC.Providers[i]
		l.readSecret(fmt.Sprintf("oidc.providers[%d].client_secret", i), p.ClientSecretFile, &p.ClientSecret)
	}
}

// readSecret fills a field from the file that its …_file names.
func (l *loader) readSecret(field, path string, into *string) {
	if path == "" {
		return
	}
	at := field + "_file"
	fail := func(message, remedy string) { l.fault(l.lineOf(at), at, message, remedy) }
	if *into != "" {
		fail("the secret is given twice", "keep "+leaf(field)+" or "+leaf(at))
		return
	}
	raw, err := readAtMost(path, maxSecret)
	text := strings.TrimSpace(string(raw))
	switch {
	case err != nil:
		fail("the file can't be read", "check that "+path+" is there and readable by carrel")
	case text == "":
		fail("the file is empty", "write the secret into "+path)
	case strings.ContainsAny(text, "\n\r\x00"):
		fail("the file holds more than one line", "keep only the secret in "+path)
	default:
		*into = text
		return
	}
	l.told[field] = true // what it would have held is not known
}
