defmodule Signpost.Application do
  @moduledoc false
  use Application

  @impl true
  def start(_type, _args) do
    children = [
      {Task.Supervisor, name: Signpost.Connections},
      Signpost.Server
    ]

    Supervisor.start_link(children, strategy: :one_for_one, name: Signpost.Supervisor)
  end
end
