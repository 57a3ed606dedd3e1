# SPDX-License-Identifier: BSD-3-Clause
#
# Runs in Windows and does what the host asks for on COM1; setup.sh does the same on the free medium.
#
#   agent.ps1 -Install   copies itself to C:\vtpm and makes a task of itself, which runs as SYSTEM at each start
#   agent.ps1            answers until the machine is switched off
#
# Host to guest, one line a request:   NUMBER VERB
# Guest to host:                       guest: ready         requests are welcome
#                                      guest| TEXT          what a program printed
#                                      guest| = NAME VALUE  what we read out of it, in no language
#                                      guest: end NUMBER STATUS
param([switch]$Install)

$ErrorActionPreference = 'Stop'
$place = 'C:\vtpm'
$volumes = @{ Namespace = 'root\CIMV2\Security\MicrosoftVolumeEncryption'; ClassName = 'Win32_EncryptableVolume' }

if ($Install) {
  New-Item -ItemType Directory -Force $place | Out-Null
  Copy-Item $PSCommandPath "$place\agent.ps1" -Force
  $action = New-ScheduledTaskAction -Execute 'powershell.exe' `
    -Argument "-NoProfile -ExecutionPolicy Bypass -File $place\agent.ps1"
  $settings = New-ScheduledTaskSettingsSet -AllowStartIfOnBatteries -DontStopIfGoingOnBatteries `
    -ExecutionTimeLimit ([TimeSpan]::Zero)
  Register-ScheduledTask -TaskName vtpm -Action $action -Trigger (New-ScheduledTaskTrigger -AtStartup) `
    -User SYSTEM -RunLevel Highest -Settings $settings -Force | Out-Null
  foreach ($what in 'standby-timeout-ac', 'hibernate-timeout-ac') { powercfg.exe /change $what 0 } # nobody is here to wake it
  Start-ScheduledTask -TaskName vtpm
  exit 0
}

function Fact($name, $value) { "= $name $value" }

# What a program of Windows prints; its status is that of the request.
function Program {
  $ErrorActionPreference = 'Continue' # Windows PowerShell takes a line on standard error for an error of ours
  $program = $args[0]
  $rest = @($args | Select-Object -Skip 1) # an array even of one: a string would be passed on letter by letter
  & $program @rest 2>&1 | ForEach-Object { "$_" }
  if ($LASTEXITCODE -ne 0) { throw "$program ended with status $LASTEXITCODE" }
}

function Volume { Get-CimInstance @volumes -Filter "DriveLetter='C:'" }

function Protectors($volume) {
  foreach ($id in (Invoke-CimMethod -InputObject $volume -MethodName GetKeyProtectors `
        -Arguments @{ KeyProtectorType = [uint32]0 }).VolumeKeyProtectorID) {
    $kind = (Invoke-CimMethod -InputObject $volume -MethodName GetKeyProtectorType `
        -Arguments @{ VolumeKeyProtectorID = $id }).KeyProtectorType
    [pscustomobject]@{ Id = $id; Kind = $kind }
  }
}

$verbs = @{
  'windows'      = {
    $system = Get-CimInstance Win32_OperatingSystem
    $system.Caption
    Fact build $system.BuildNumber
    Fact secureboot-state (Get-ItemProperty HKLM:\SYSTEM\CurrentControlSet\Control\SecureBoot\State).UEFISecureBootEnabled
  }
  'tpm'          = {
    $tpm = Get-Tpm
    for ($try = 0; -not $tpm.TpmReady -and $try -lt 30; $try++) { # a task of Windows provisions it soon after the first start
      Start-Sleep 10
      $tpm = Get-Tpm
    }
    ($tpm | Format-List | Out-String).Trim()
    foreach ($name in 'TpmPresent', 'TpmReady', 'TpmEnabled', 'TpmActivated', 'TpmOwned', 'LockedOut') { Fact $name $tpm.$name }
    Fact manufacturer $tpm.ManufacturerIdTxt
    Fact specification (Get-CimInstance -Namespace root\CIMV2\Security\MicrosoftTpm -ClassName Win32_Tpm).SpecVersion
  }
  'tpmtool'      = { Program tpmtool.exe getdeviceinformation }
  'secureboot'   = { Fact secureboot (Confirm-SecureBootUEFI) }
  'ek'           = {
    $key = Get-TpmEndorsementKeyInfo -HashAlgorithm sha256
    Fact present $key.IsPresent
    Fact hash $key.PublicKeyHash
    $certificates = @(@($key.ManufacturerCertificates) + @($key.AdditionalCertificates) | Where-Object { $_ })
    Fact certificates $certificates.Count
  }
  # The provider under Windows Hello: a key that never leaves the TPM signs. The PIN itself needs a person.
  'key'          = {
    $made = New-SelfSignedCertificate -Subject 'CN=vtpm' -CertStoreLocation Cert:\LocalMachine\My -KeyAlgorithm RSA `
      -KeyLength 2048 -Provider 'Microsoft Platform Crypto Provider' -KeyExportPolicy NonExportable
    try {
      $private = [Security.Cryptography.X509Certificates.RSACertificateExtensions]::GetRSAPrivateKey($made)
      $public = [Security.Cryptography.X509Certificates.RSACertificateExtensions]::GetRSAPublicKey($made)
      $data = [Text.Encoding]::ASCII.GetBytes('signed by a key in the TPM')
      $hash = [Security.Cryptography.HashAlgorithmName]::SHA256
      $padding = [Security.Cryptography.RSASignaturePadding]::Pkcs1
      Fact provider $private.Key.Provider.Provider
      Fact signs $public.VerifyData($data, $private.SignData($data, $hash, $padding), $hash, $padding)
    } finally {
      Remove-Item "Cert:\LocalMachine\My\$($made.Thumbprint)" -DeleteKey
    }
  }
  'bitlocker-on' = {
    # or the machine switches itself off when the recovery screen has stood for a minute (Microsoft's article 3174095)
    bcdedit.exe /set '{bootmgr}' bootshutdowndisabled 1
    Program manage-bde.exe -on C: -RecoveryPassword -SkipHardwareTest -UsedSpaceOnly | Where-Object { $_ -notmatch '(\d{6}-){7}' }
    if (-not (Protectors (Volume) | Where-Object Kind -eq 1)) { Program manage-bde.exe -protectors -add C: -tpm }
  }
  'bitlocker'    = {
    Program manage-bde.exe -status C:
    $volume = Volume
    $state = Invoke-CimMethod -InputObject $volume -MethodName GetConversionStatus
    Fact protection (Invoke-CimMethod -InputObject $volume -MethodName GetProtectionStatus).ProtectionStatus
    Fact conversion $state.ConversionStatus
    Fact percentage $state.EncryptionPercentage
    $protectors = @(Protectors $volume)
    Fact protectors (($protectors.Kind | Sort-Object) -join ',')
    foreach ($protector in $protectors | Where-Object Kind -eq 1) {
      $bound = Invoke-CimMethod -InputObject $volume -MethodName GetKeyProtectorPlatformValidationProfile `
        -Arguments @{ VolumeKeyProtectorID = $protector.Id }
      Fact pcrs ($bound.PlatformValidationProfile -join ',')
    }
  }
  'recovery'     = {
    $volume = Volume
    $protector = Protectors $volume | Where-Object Kind -eq 3 | Select-Object -First 1
    Fact password (Invoke-CimMethod -InputObject $volume -MethodName GetKeyProtectorNumericalPassword `
        -Arguments @{ VolumeKeyProtectorID = $protector.Id }).NumericalPassword
  }
  'events'       = {
    $found = @(foreach ($log in 'System', 'Microsoft-Windows-BitLocker/BitLocker Management') {
        Get-WinEvent -LogName $log -MaxEvents 2000 -ErrorAction SilentlyContinue |
          Where-Object { $_.ProviderName -match 'TPM|BitLocker' -and $_.Level -in 1, 2, 3 }
      })
    Fact count $found.Count
    $found | ForEach-Object { "$($_.TimeCreated.ToString('s')) $($_.ProviderName) $($_.Id): $(($_.Message -split "`n")[0])" }
  }
  'reboot'       = { Program shutdown.exe /r /t 2 }
  'poweroff'     = { Program shutdown.exe /s /t 2 }
}

$port = New-Object System.IO.Ports.SerialPort COM1, 115200, None, 8, One
$port.Encoding = [Text.Encoding]::UTF8
$port.NewLine = "`n"
while (-not $port.IsOpen) { try { $port.Open() } catch { Start-Sleep 2 } } # its driver may start after us
$port.WriteLine('guest: ready')
while ($true) {
  $number, $verb, $rest = $port.ReadLine().Trim() -split ' '
  $status = 0
  try {
    if (-not $verbs.ContainsKey("$verb")) { throw "no such request: $verb" }
    # each line at once, so that what a program said of its failure goes before that
    & $verbs[$verb] | ForEach-Object { "$_" -split '\r?\n' } | ForEach-Object { $port.WriteLine("guest| $_") }
  } catch {
    $port.WriteLine(("guest| $_" -replace '[\r\n]+', ' '))
    $status = 1
  }
  $port.WriteLine("guest: end $number $status")
}
