// A Bento (the MIT fork of Benthos, from which Redpanda Connect also comes) with only what the comparison needs.
package main

import (
	"context"

	"github.com/warpstreamlabs/bento/public/service"

	_ "github.com/lib/pq"
	_ "github.com/warpstreamlabs/bento/public/components/amqp09"
	_ "github.com/warpstreamlabs/bento/public/components/elasticsearch"
	_ "github.com/warpstreamlabs/bento/public/components/io"
	_ "github.com/warpstreamlabs/bento/public/components/pure"
	_ "github.com/warpstreamlabs/bento/public/components/sql/base"
)

func main() { service.RunCLI(context.Background()) }
