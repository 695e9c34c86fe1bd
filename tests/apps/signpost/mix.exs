# An Elixir application as anybody has one; `docs/first-hour.md` deploys it. No dependencies: it builds offline.
defmodule Signpost.MixProject do
  use Mix.Project

  def project do
    [
      app: :signpost,
      version: "0.1.0",
      elixir: "~> 1.14",
      start_permanent: Mix.env() == :prod,
      deps: [],
      releases: [signpost: [include_executables_for: [:unix]]]
    ]
  end

  def application do
    [extra_applications: [:logger, :crypto], mod: {Signpost.Application, []}]
  end
end
