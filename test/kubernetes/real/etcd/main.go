// etcd as published: Debian's is too old for a Kubernetes of 2025.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
