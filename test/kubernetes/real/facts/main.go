// Prints what Kubernetes' Go types say of the built-in kinds: for each type its fields with JSON name, type, protobuf number,
// and whether an empty value is left out. Only Go's own reflection knows all of it; the rest of the facts (list types,
// defaults, texts) is in the OpenAPI documents. Output: JSON, one type a line.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"slices"
	"sort"
	"strings"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	meta "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// One field. Flags: "p" a pointer, so that empty and absent differ; "z" an empty value is left out in JSON; "i" an embedded
// struct whose fields are this type's own in JSON.
type field struct {
	Name   string
	Type   string
	Number string
	Flags  string
}

var types = map[string][]field{}

// The leaves: their JSON form is not an object with their fields.
var special = map[string]bool{
	"Time": true, "MicroTime": true, "Quantity": true, "IntOrString": true, "FieldsV1": true, "RawExtension": true, "Duration": true,
	"JSON": true, "JSONSchemaPropsOrArray": true, "JSONSchemaPropsOrBool": true, "JSONSchemaPropsOrStringArray": true,
}

// k8s.io/api/core/v1.Pod is io.k8s.api.core.v1.Pod in OpenAPI documents.
func nameOf(t reflect.Type) string {
	parts := strings.SplitN(t.PkgPath(), "/", 2)
	host := strings.Split(parts[0], ".")
	for i, j := 0, len(host)-1; i < j; i, j = i+1, j-1 {
		host[i], host[j] = host[j], host[i]
	}
	return strings.Join(host, ".") + "." + strings.ReplaceAll(parts[1], "/", ".") + "." + t.Name()
}

func typeOf(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return typeOf(t.Elem())
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			return "bytes"
		}
		return "[]" + typeOf(t.Elem())
	case reflect.Map:
		return "map:" + typeOf(t.Elem())
	case reflect.Struct:
		visit(t)
		return nameOf(t)
	case reflect.Interface:
		return "any"
	case reflect.Int:
		return "int64"
	}
	return t.Kind().String()
}

func visit(t reflect.Type) {
	name := nameOf(t)
	if _, seen := types[name]; seen {
		return
	}
	types[name] = []field{}
	if special[t.Name()] {
		return
	}
	fields := []field{}
	for i := 0; i < t.NumField(); i++ {
		member := t.Field(i)
		if !member.IsExported() {
			continue
		}
		json, proto := strings.Split(member.Tag.Get("json"), ","), strings.Split(member.Tag.Get("protobuf"), ",")
		if json[0] == "-" {
			continue
		}
		number, flags := "", ""
		if len(proto) > 1 {
			number = proto[1]
		}
		if member.Type.Kind() == reflect.Pointer {
			flags += "p"
		}
		if slices.Contains(json[1:], "omitzero") || slices.Contains(json[1:], "omitempty") && member.Type.Kind() != reflect.Struct {
			flags += "z"
		}
		if member.Anonymous && json[0] == "" {
			flags += "i"
		}
		fields = append(fields, field{json[0], typeOf(member.Type), number, flags})
	}
	types[name] = fields
}

func main() {
	all := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{scheme.AddToScheme, apiextensions.AddToScheme, apiregistration.AddToScheme} {
		if err := add(all); err != nil {
			panic(err)
		}
	}
	for kind, t := range all.AllKnownTypes() {
		isServed := !strings.Contains(kind.Version, "alpha") && !strings.Contains(kind.Version, "beta") && kind.Version != runtime.APIVersionInternal
		if isServed && kind.Group != "meta.k8s.io" && t.Kind() == reflect.Struct {
			visit(t)
		}
	}
	visit(reflect.TypeFor[meta.DeleteOptions]())
	visit(reflect.TypeFor[meta.Status]())
	names := []string{}
	for name := range types {
		names = append(names, name)
	}
	sort.Strings(names)
	out := bufio.NewWriter(os.Stdout)
	defer out.Flush()
	fmt.Fprint(out, "{")
	for i, name := range names {
		list := [][]string{}
		for _, f := range types[name] {
			list = append(list, []string{f.Name, f.Type, f.Number, f.Flags})
		}
		text, err := json.Marshal(list)
		if err != nil {
			panic(err)
		}
		if i > 0 {
			fmt.Fprint(out, ",")
		}
		fmt.Fprintf(out, "\n%q: %s", name, text)
	}
	fmt.Fprintln(out, "\n}")
}
