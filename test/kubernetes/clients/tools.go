//go:build tools

package clients

import _ "helm.sh/helm/v3/cmd/helm"
