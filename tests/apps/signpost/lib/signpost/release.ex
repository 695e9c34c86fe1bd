defmodule Signpost.Release do
  @moduledoc "What is run by hand or by a deployment: `bin/signpost eval Signpost.Release.migrate`."

  @doc "Stands for a change of a database: it notes that it ran."
  def migrate do
    Application.load(:signpost)
    # $STATE_DIRECTORY is what systemd gives a service for its data.
    path = Path.join(System.fetch_env!("STATE_DIRECTORY"), "migrations")
    File.write!(path, "#{Application.spec(:signpost, :vsn)} #{System.os_time(:second)}\n", [:append])
    IO.puts("migrated")
  end
end
