// Client-go against a cluster, as controllers and tools use it. Each check prints a line of JSON: its name, and why it failed, if it
// did. KUBECONFIG names the cluster; -image is what the pod runs.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/httpstream"
	"k8s.io/apimachinery/pkg/util/wait"
	acorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/dynamic/dynamicinformer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/tools/pager"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/record"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	"k8s.io/client-go/util/retry"
)

const (
	namespace = "client-go"
	limit     = 60 * time.Second
)

type clients struct {
	config  *rest.Config
	typed   kubernetes.Interface
	dynamic dynamic.Interface
	image   string
}

func expect(condition bool, format string, args ...any) error {
	if condition {
		return nil
	}
	return fmt.Errorf(format, args...)
}

// until waits for a condition, without an error for what is only not there yet.
func until(ctx context.Context, condition func() (bool, error)) error {
	return wait.PollUntilContextTimeout(ctx, 50*time.Millisecond, limit, true, func(context.Context) (bool, error) {
		done, err := condition()
		if apierrors.IsNotFound(err) {
			return false, nil
		}
		return done, err
	})
}

func configMap(name string, data map[string]string) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"of": name}}, Data: data}
}

// typed uses a client that speaks protobuf, as controllers do.
func (c clients) typedCalls(ctx context.Context) error {
	config := rest.CopyConfig(c.config)
	config.ContentType = "application/vnd.kubernetes.protobuf"
	config.AcceptContentTypes = "application/vnd.kubernetes.protobuf,application/json"
	set, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	maps := set.CoreV1().ConfigMaps(namespace)
	made, err := maps.Create(ctx, configMap("typed", map[string]string{"a": "1"}), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	stale := made.DeepCopy()
	made.Data["a"] = "2"
	if made, err = maps.Update(ctx, made, metav1.UpdateOptions{}); err != nil {
		return err
	}
	if err := expect(made.Data["a"] == "2" && made.ResourceVersion != stale.ResourceVersion, "update: %v", made); err != nil {
		return err
	}
	if _, err = maps.Update(ctx, stale, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		return fmt.Errorf("a stale update: %v", err)
	}
	err = retry.RetryOnConflict(retry.DefaultRetry, func() error {
		current, err := maps.Get(ctx, "typed", metav1.GetOptions{})
		if err != nil {
			return err
		}
		current.Data["b"] = "3"
		_, err = maps.Update(ctx, current, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	if _, err = maps.Patch(ctx, "typed", types.StrategicMergePatchType, []byte(`{"data":{"a":null}}`), metav1.PatchOptions{}); err != nil {
		return err
	}
	last, err := maps.Get(ctx, "typed", metav1.GetOptions{})
	if err != nil {
		return err
	}
	if err := expect(len(last.Data) == 1 && last.Data["b"] == "3", "after the patch: %v", last.Data); err != nil {
		return err
	}
	wrong := types.UID("other")
	err = maps.Delete(ctx, "typed", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &wrong}})
	if !apierrors.IsConflict(err) {
		return fmt.Errorf("a delete with another uid: %v", err)
	}
	if err := maps.DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{LabelSelector: "of=typed"}); err != nil {
		return err
	}
	_, err = maps.Get(ctx, "typed", metav1.GetOptions{})
	return expect(apierrors.IsNotFound(err), "after the delete: %v", err)
}

func (c clients) pages(ctx context.Context) error {
	maps := c.typed.CoreV1().ConfigMaps(namespace)
	for i := range 25 {
		one := configMap(fmt.Sprintf("page-%02d", i), nil)
		one.Labels = map[string]string{"in": "pages"}
		if _, err := maps.Create(ctx, one, metav1.CreateOptions{}); err != nil {
			return err
		}
	}
	asked := 0
	p := pager.New(func(ctx context.Context, options metav1.ListOptions) (runtime.Object, error) {
		asked++
		return maps.List(ctx, options)
	})
	p.PageSize = 10
	names := map[string]bool{}
	err := p.EachListItem(ctx, metav1.ListOptions{LabelSelector: "in=pages"}, func(object runtime.Object) error {
		names[object.(*corev1.ConfigMap).Name] = true
		return nil
	})
	if err != nil {
		return err
	}
	return expect(len(names) == 25 && asked == 3, "%d names in %d pages", len(names), asked)
}

func (c clients) serverSideApply(ctx context.Context) error {
	maps := c.typed.CoreV1().ConfigMaps(namespace)
	apply := func(manager, key, value string, force bool) (*corev1.ConfigMap, error) {
		want := acorev1.ConfigMap("applied", namespace).WithData(map[string]string{key: value})
		return maps.Apply(ctx, want, metav1.ApplyOptions{FieldManager: manager, Force: force})
	}
	if _, err := apply("one", "a", "1", false); err != nil {
		return err
	}
	if _, err := apply("two", "b", "2", false); err != nil {
		return err
	}
	_, err := apply("two", "a", "3", false)
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `conflict with "one"`) {
		return fmt.Errorf("another's field: %v", err)
	}
	forced, err := apply("two", "a", "3", true)
	if err != nil {
		return err
	}
	// What two applies no longer, it loses: b. What one owned is two's now.
	if err := expect(len(forced.Data) == 1 && forced.Data["a"] == "3", "forced: %v", forced.Data); err != nil {
		return err
	}
	extracted, err := acorev1.ExtractConfigMap(forced, "two")
	if err != nil {
		return err
	}
	return expect(extracted.Data["a"] == "3", "extracted: %v", extracted.Data)
}

var widgets = schema.GroupVersionResource{Group: "test.example.com", Version: "v1", Resource: "widgets"}

func (c clients) dynamicAndCustom(ctx context.Context) error {
	definition := &unstructured.Unstructured{}
	if err := json.Unmarshal([]byte(`{
	  "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
	  "metadata": {"name": "widgets.test.example.com"},
	  "spec": {
	    "group": "test.example.com", "scope": "Namespaced",
	    "names": {"plural": "widgets", "singular": "widget", "kind": "Widget", "shortNames": ["wd"]},
	    "versions": [{
	      "name": "v1", "served": true, "storage": true,
	      "subresources": {"status": {}, "scale": {"specReplicasPath": ".spec.size", "statusReplicasPath": ".status.size"}},
	      "schema": {"openAPIV3Schema": {"type": "object", "properties": {
	        "spec": {"type": "object", "properties": {
	          "size": {"type": "integer", "minimum": 1, "default": 3}, "color": {"type": "string"}}},
	        "status": {"type": "object", "properties": {"size": {"type": "integer"}}}}}}
	    }]
	  }}`), definition); err != nil {
		return err
	}
	definitions := c.dynamic.Resource(schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"})
	if _, err := definitions.Create(ctx, definition, metav1.CreateOptions{}); err != nil {
		return err
	}
	defer definitions.Delete(context.Background(), definition.GetName(), metav1.DeleteOptions{})
	mapper := restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(c.typed.Discovery()))
	err := until(ctx, func() (bool, error) {
		mapper.Reset()
		mapping, err := mapper.RESTMapping(schema.GroupKind{Group: "test.example.com", Kind: "Widget"})
		return err == nil && mapping.Resource == widgets, nil
	})
	if err != nil {
		return fmt.Errorf("the kind is not discovered: %w", err)
	}
	api := c.dynamic.Resource(widgets).Namespace(namespace)
	widget := func(name string, spec map[string]any) *unstructured.Unstructured {
		return &unstructured.Unstructured{Object: map[string]any{
			"apiVersion": "test.example.com/v1", "kind": "Widget", "metadata": map[string]any{"name": name}, "spec": spec}}
	}
	factory := dynamicinformer.NewFilteredDynamicSharedInformerFactory(c.dynamic, 0, namespace, nil)
	lister := factory.ForResource(widgets).Lister()
	factory.Start(ctx.Done())
	factory.WaitForCacheSync(ctx.Done())
	made, err := api.Create(ctx, widget("one", map[string]any{"color": "red", "unknown": true}), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	size, _, _ := unstructured.NestedInt64(made.Object, "spec", "size")
	_, hasUnknown, _ := unstructured.NestedBool(made.Object, "spec", "unknown")
	if err := expect(size == 3 && !hasUnknown, "defaulted and pruned: %v", made.Object["spec"]); err != nil {
		return err
	}
	_, err = api.Create(ctx, widget("two", map[string]any{"size": int64(0)}), metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) {
		return fmt.Errorf("size 0: %v", err)
	}
	if _, err = api.Apply(ctx, "three", widget("three", map[string]any{"size": int64(5)}), metav1.ApplyOptions{FieldManager: "test"}); err != nil {
		return err
	}
	if err := unstructured.SetNestedField(made.Object, int64(3), "status", "size"); err != nil {
		return err
	}
	if _, err = api.UpdateStatus(ctx, made, metav1.UpdateOptions{}); err != nil {
		return err
	}
	if _, err = api.Patch(ctx, "one", types.MergePatchType, []byte(`{"spec":{"replicas":4}}`), metav1.PatchOptions{}, "scale"); err != nil {
		return err
	}
	return until(ctx, func() (bool, error) {
		all, err := lister.List(labels.Everything())
		if err != nil || len(all) != 2 {
			return false, err
		}
		one, err := lister.ByNamespace(namespace).Get("one")
		if err != nil {
			return false, err
		}
		object := one.(*unstructured.Unstructured).Object
		size, _, _ := unstructured.NestedInt64(object, "spec", "size")
		status, _, _ := unstructured.NestedInt64(object, "status", "size")
		return size == 4 && status == 3, nil
	})
}

func (c clients) sharedInformer(ctx context.Context) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	factory := informers.NewSharedInformerFactoryWithOptions(c.typed, 0, informers.WithNamespace(namespace),
		informers.WithTweakListOptions(func(options *metav1.ListOptions) { options.LabelSelector = "of=informed" }))
	var added, updated, deleted atomic.Int32
	informer := factory.Core().V1().ConfigMaps().Informer()
	if _, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc:    func(any) { added.Add(1) },
		UpdateFunc: func(any, any) { updated.Add(1) },
		DeleteFunc: func(any) { deleted.Add(1) },
	}); err != nil {
		return err
	}
	maps := c.typed.CoreV1().ConfigMaps(namespace)
	if _, err := maps.Create(ctx, configMap("informed", nil), metav1.CreateOptions{}); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return errors.New("the informer has not synced")
	}
	for i := range 5 {
		patch := fmt.Sprintf(`{"data":{"n":"%d"}}`, i)
		if _, err := maps.Patch(ctx, "informed", types.MergePatchType, []byte(patch), metav1.PatchOptions{}); err != nil {
			return err
		}
	}
	// One that loses the label leaves the informer's view.
	if _, err := maps.Patch(ctx, "informed", types.MergePatchType, []byte(`{"metadata":{"labels":{"of":"other"}}}`), metav1.PatchOptions{}); err != nil {
		return err
	}
	if err := until(ctx, func() (bool, error) { return deleted.Load() == 1, nil }); err != nil {
		return err
	}
	return expect(added.Load() == 1 && updated.Load() == 5, "added %d, updated %d", added.Load(), updated.Load())
}

func (c clients) leaderElection(ctx context.Context) error {
	leaders := make(chan string, 4)
	run := func(ctx context.Context, name string) chan struct{} {
		over := make(chan struct{})
		lock := &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Name: "leader", Namespace: namespace},
			Client:     c.typed.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: name},
		}
		go func() {
			defer close(over)
			leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
				Lock: lock, ReleaseOnCancel: true, LeaseDuration: 5 * time.Second, RenewDeadline: 3 * time.Second, RetryPeriod: 200 * time.Millisecond,
				Callbacks: leaderelection.LeaderCallbacks{
					OnStartedLeading: func(context.Context) { leaders <- name },
					OnStoppedLeading: func() {},
				},
			})
		}()
		return over
	}
	next := func(want string) error {
		select {
		case name := <-leaders:
			return expect(name == want, "%s leads, not %s", name, want)
		case <-time.After(limit):
			return fmt.Errorf("%s does not lead", want)
		}
	}
	first, endFirst := context.WithCancel(ctx)
	second, endSecond := context.WithCancel(ctx)
	defer endSecond()
	overFirst := run(first, "first")
	if err := next("first"); err != nil {
		endFirst()
		return err
	}
	overSecond := run(second, "second")
	endFirst()
	<-overFirst
	if err := next("second"); err != nil {
		return err
	}
	lease, err := c.typed.CoordinationV1().Leases(namespace).Get(ctx, "leader", metav1.GetOptions{})
	if err != nil {
		return err
	}
	endSecond()
	<-overSecond
	return expect(*lease.Spec.HolderIdentity == "second" && *lease.Spec.LeaseTransitions == 1, "lease: %v", lease.Spec)
}

func (c clients) events(ctx context.Context) error {
	about, err := c.typed.CoreV1().ConfigMaps(namespace).Create(ctx, configMap("told", nil), metav1.CreateOptions{})
	if err != nil {
		return err
	}
	broadcaster := record.NewBroadcaster()
	defer broadcaster.Shutdown()
	broadcaster.StartRecordingToSink(sink{c.typed, ctx})
	recorder := broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: "test"})
	for range 3 {
		recorder.Event(about, corev1.EventTypeNormal, "Told", "the same thing")
	}
	return until(ctx, func() (bool, error) {
		list, err := c.typed.CoreV1().Events(namespace).List(ctx, metav1.ListOptions{FieldSelector: "involvedObject.name=told,reason=Told"})
		return err == nil && len(list.Items) == 1 && list.Items[0].Count == 3, err
	})
}

// sink writes events; client-go's own is bound to a context of its own choosing.
type sink struct {
	client kubernetes.Interface
	ctx    context.Context
}

func (s sink) Create(event *corev1.Event) (*corev1.Event, error) {
	return s.client.CoreV1().Events(event.Namespace).CreateWithEventNamespaceWithContext(s.ctx, event)
}
func (s sink) Update(event *corev1.Event) (*corev1.Event, error) {
	return s.client.CoreV1().Events(event.Namespace).UpdateWithEventNamespaceWithContext(s.ctx, event)
}
func (s sink) Patch(event *corev1.Event, data []byte) (*corev1.Event, error) {
	return s.client.CoreV1().Events(event.Namespace).PatchWithEventNamespaceWithContext(s.ctx, event, data)
}

func (c clients) streams(ctx context.Context) error {
	grace := int64(0)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "shell"},
		Spec: corev1.PodSpec{
			TerminationGracePeriodSeconds: &grace,
			Containers: []corev1.Container{{
				Name: "main", Image: c.image, ImagePullPolicy: corev1.PullIfNotPresent,
				Command: []string{"sh", "-c", "echo started; while true; do echo hello | nc -l -p 8080 -q 0 2>/dev/null || echo hello | nc -lp 8080 || python3 -c 'import socket as s; l=s.create_server((\"127.0.0.1\",8080)); c=l.accept()[0]; c.sendall(b\"hello\\n\"); c.close()'; done"},
			}},
		},
	}
	pods := c.typed.CoreV1().Pods(namespace)
	if _, err := pods.Create(ctx, pod, metav1.CreateOptions{}); err != nil {
		return err
	}
	err := until(ctx, func() (bool, error) {
		current, err := pods.Get(ctx, "shell", metav1.GetOptions{})
		return err == nil && current.Status.Phase == corev1.PodRunning, err
	})
	if err != nil {
		return err
	}
	request := c.typed.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name("shell").SubResource("exec").
		VersionedParams(&corev1.PodExecOptions{Container: "main", Stdin: true, Stdout: true, Stderr: true,
			Command: []string{"sh", "-c", "wc -c; echo problem >&2; exit 5"}}, scheme.ParameterCodec)
	executors := map[string]func() (remotecommand.Executor, error){
		"SPDY": func() (remotecommand.Executor, error) {
			return remotecommand.NewSPDYExecutor(c.config, "POST", request.URL())
		},
		"WebSocket": func() (remotecommand.Executor, error) {
			return remotecommand.NewWebSocketExecutor(c.config, "GET", request.URL().String())
		},
	}
	for protocol, open := range executors {
		executor, err := open()
		if err != nil {
			return fmt.Errorf("%s: %w", protocol, err)
		}
		var stdout, stderr bytes.Buffer
		err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{
			Stdin: strings.NewReader(strings.Repeat("x", 300_000)), Stdout: &stdout, Stderr: &stderr})
		var exit interface{ ExitStatus() int }
		if !errors.As(err, &exit) || exit.ExitStatus() != 5 {
			return fmt.Errorf("%s: ended with %v", protocol, err)
		}
		if strings.TrimSpace(stdout.String()) != "300000" || stderr.String() != "problem\n" {
			return fmt.Errorf("%s: said %q and %q", protocol, stdout.String(), stderr.String())
		}
	}
	logs, err := pods.GetLogs("shell", &corev1.PodLogOptions{}).DoRaw(ctx)
	if err != nil || !strings.HasPrefix(string(logs), "started\n") {
		return fmt.Errorf("logs: %q, %v", logs, err)
	}
	return c.portForward(ctx)
}

func (c clients) portForward(ctx context.Context) error {
	url := c.typed.CoreV1().RESTClient().Post().Resource("pods").Namespace(namespace).Name("shell").SubResource("portforward").URL()
	transport, upgrader, err := spdy.RoundTripperFor(c.config)
	if err != nil {
		return err
	}
	overSPDY := spdy.NewDialer(upgrader, &http.Client{Transport: transport}, http.MethodPost, url)
	overWebSocket, err := portforward.NewSPDYOverWebsocketDialer(url, c.config)
	if err != nil {
		return err
	}
	for protocol, dialer := range map[string]httpstream.Dialer{"SPDY": overSPDY, "WebSocket": overWebSocket} {
		err := until(ctx, func() (bool, error) { return c.forwarded(dialer) == nil, nil })
		if err != nil {
			return fmt.Errorf("%s: %w", protocol, c.forwarded(dialer))
		}
	}
	return nil
}

func (c clients) forwarded(dialer httpstream.Dialer) error {
	stop, ready := make(chan struct{}), make(chan struct{})
	defer close(stop)
	forwarder, err := portforward.New(dialer, []string{"0:8080"}, stop, ready, io.Discard, io.Discard)
	if err != nil {
		return err
	}
	failed := make(chan error, 1)
	go func() { failed <- forwarder.ForwardPorts() }()
	select {
	case <-ready:
	case err := <-failed:
		return err
	case <-time.After(limit):
		return errors.New("not ready")
	}
	ports, err := forwarder.GetPorts()
	if err != nil {
		return err
	}
	connection, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", ports[0].Local))
	if err != nil {
		return err
	}
	defer connection.Close()
	text := make([]byte, 6)
	if _, err := io.ReadFull(connection, text); err != nil {
		return err
	}
	return expect(string(text) == "hello\n", "read %q", text)
}

func (c clients) discovery(context.Context) error {
	client := discovery.NewDiscoveryClientForConfigOrDie(c.config)
	version, err := client.ServerVersion()
	if err != nil {
		return err
	}
	if err := expect(version.Major == "1" && version.Minor == "34", "version %s.%s", version.Major, version.Minor); err != nil {
		return err
	}
	lists, err := client.ServerPreferredResources()
	if err != nil {
		return err
	}
	kinds := 0
	for _, list := range lists {
		kinds += len(list.APIResources)
	}
	if err := expect(kinds > 60, "%d preferred kinds", kinds); err != nil {
		return err
	}
	paths, err := client.OpenAPIV3().Paths()
	if err != nil {
		return err
	}
	document, err := paths["apis/apps/v1"].Schema("application/com.github.proto-openapi.spec.v3.v1.0+protobuf")
	if err != nil || len(document) == 0 {
		return fmt.Errorf("OpenAPI v3: %d bytes, %v", len(document), err)
	}
	schema, err := client.OpenAPISchema()
	if err != nil {
		return fmt.Errorf("OpenAPI v2: %w", err)
	}
	return expect(len(schema.Definitions.AdditionalProperties) > 500, "%d definitions", len(schema.Definitions.AdditionalProperties))
}

func main() {
	image := flag.String("image", "busybox:1", "image of the pod")
	flag.Parse()
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		panic(err)
	}
	config.QPS, config.Burst = 200, 200
	c := clients{config, kubernetes.NewForConfigOrDie(config), dynamic.NewForConfigOrDie(config), *image}
	ctx := context.Background()
	spaces := c.typed.CoreV1().Namespaces()
	if _, err := spaces.Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: namespace}}, metav1.CreateOptions{}); err != nil {
		panic(err)
	}
	defer spaces.Delete(ctx, namespace, metav1.DeleteOptions{})
	if err := until(ctx, func() (bool, error) {
		_, err := c.typed.CoreV1().ServiceAccounts(namespace).Get(ctx, "default", metav1.GetOptions{})
		return err == nil, err
	}); err != nil {
		panic(err)
	}
	checks := []struct {
		name string
		run  func(context.Context) error
	}{
		{"discovery, the version, OpenAPI documents", c.discovery},
		{"typed calls in protobuf: conflicts, patches, preconditions", c.typedCalls},
		{"a list in pages", c.pages},
		{"server-side apply from typed configurations", c.serverSideApply},
		{"the dynamic client and a custom kind", c.dynamicAndCustom},
		{"a shared informer sees each change once", c.sharedInformer},
		{"leader election passes the lease on", c.leaderElection},
		{"events that are told again are counted", c.events},
		{"exec, logs and port-forward over SPDY and WebSocket", c.streams},
	}
	for _, check := range checks {
		one, cancel := context.WithTimeout(ctx, 2*limit)
		result := map[string]string{"name": check.name}
		if err := check.run(one); err != nil {
			result["error"] = err.Error()
		}
		cancel()
		line, _ := json.Marshal(result)
		fmt.Println(string(line))
	}
}
