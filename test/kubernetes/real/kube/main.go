// The programs of a Kubernetes control plane and node in one binary: its first argument says which one this process is.
package main

import (
	"context"
	"os"
	"slices"

	"github.com/spf13/cobra"
	"k8s.io/component-base/cli"
	_ "k8s.io/component-base/logs/json/register"
	_ "k8s.io/component-base/metrics/prometheus/clientgo"
	_ "k8s.io/component-base/metrics/prometheus/version"
	apiserver "k8s.io/kubernetes/cmd/kube-apiserver/app"
	controllers "k8s.io/kubernetes/cmd/kube-controller-manager/app"
	proxy "k8s.io/kubernetes/cmd/kube-proxy/app"
	scheduler "k8s.io/kubernetes/cmd/kube-scheduler/app"
	kubelet "k8s.io/kubernetes/cmd/kubelet/app"
)

func command(name string) *cobra.Command {
	switch name {
	case "apiserver":
		return apiserver.NewAPIServerCommand()
	case "controller-manager":
		return controllers.NewControllerManagerCommand()
	case "scheduler":
		return scheduler.NewSchedulerCommand()
	case "kubelet":
		return kubelet.NewKubeletCommand(context.Background())
	case "proxy":
		return proxy.NewProxyCommand()
	}
	return nil
}

func main() {
	var program *cobra.Command
	if len(os.Args) > 1 {
		name := os.Args[1]
		os.Args = slices.Delete(os.Args, 1, 2)
		program = command(name)
	}
	if program == nil {
		os.Stderr.WriteString("usage: kube apiserver|controller-manager|scheduler|kubelet|proxy FLAGS...\n")
		os.Exit(2)
	}
	os.Exit(cli.Run(program))
}
